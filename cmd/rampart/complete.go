package main

import (
	"maps"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
	"github.com/rampart-security/rampart/spec"
)

// completeUsers and its like complete the first argument with what the running
// system has. Without one they offer nothing and say nothing.

func (f *adminFlags) completeUsers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(f, cmd, args, wire.AdminUsers, func(u wire.User) string { return u.Name })
}

func (f *adminFlags) completeClients(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(f, cmd, args, wire.AdminClients, func(c wire.Client) string { return c.ID })
}

func (f *adminFlags) completeKeys(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(f, cmd, args, wire.AdminAPIKeys, func(k wire.APIKeyInfo) string { return k.ID })
}

func (f *adminFlags) completeServices(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return complete(f, cmd, args, wire.AdminServices, func(s wire.ServiceState) string { return s.Name })
}

// completeRoles offers the roles of the rampart.yaml in this folder.
func completeRoles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	sys, err := spec.Load("rampart.yaml")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(sys.Authz.Roles)), cobra.ShellCompDirectiveNoFileComp
}

func complete[T any](f *adminFlags, cmd *cobra.Command, args []string, path string, name func(T) string) ([]string, cobra.ShellCompDirective) {
	var all []T
	admin, err := f.open()
	if err == nil && len(args) == 0 {
		err = admin.call(cmd.Context(), http.MethodGet, path, nil, &all)
	}
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = name(v)
	}
	return slices.Sorted(slices.Values(names)), cobra.ShellCompDirectiveNoFileComp
}
