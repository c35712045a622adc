package main

import "github.com/spf13/cobra"

// policyAdminCommands are those that speak to the running system.
func policyAdminCommands() []*cobra.Command { return nil }

// policyWhyCommand replays a decision of the running system's log.
func policyWhyCommand() *cobra.Command {
	return &cobra.Command{Use: "why ID", Short: "Replay a logged decision and explain it", Hidden: true, Args: namedArgs,
		RunE: func(*cobra.Command, []string) error { return usageError("no decision log is kept yet") }}
}
