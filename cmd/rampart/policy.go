package main

import (
	"github.com/spf13/cobra"
)

func policyCmd() *cobra.Command {
	cmd := group("policy", "Test, explain and ship what decides who may do what")
	cmd.Long = `policy works on what rampart.yaml names: roles, types, the model of relations, and
the Cedar and Rego files of each service. Nothing has to run for it, but for
push, status and why.`
	cmd.Example = `  rampart policy test --cover
  rampart policy test --mutate            # does some test notice each change of the policies?
  rampart policy lint
  rampart policy explain alice orders:read order/17 --attrs '{"owner":"user:bob"}'`
	cmd.Args = meantCommand
	worded(cmd)
	cmd.AddCommand(policyTestCmd(), policyLintCmd(), policyExplainCmd(), policySchemaCmd(), policyDiffCmd(), policyRLSCmd(), policyFuzzCmd())
	cmd.AddCommand(policyAdminCommands()...)
	cmd.AddCommand(policyWhyCommand())
	return cmd
}
