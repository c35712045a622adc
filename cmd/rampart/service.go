package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func serviceCmd() *cobra.Command {
	var f adminFlags
	cmd := group("service", "Keep a service from acting, when it may be in other hands")
	cmd.Example = `  rampart service disable orders
  rampart service enable orders`
	f.add(cmd)
	cmd.AddCommand(serviceListCmd(&f), serviceDisableCmd(&f), serviceEnableCmd(&f))
	return cmd
}

func serviceListCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List services and whether they may act",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := f.open()
			if err != nil {
				return err
			}
			var all []wire.ServiceState
			if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminServices, nil, &all); err != nil {
				return err
			}
			t := table{head: []string{"SERVICE", "STATE", "IDENTITY"}}
			for _, s := range all {
				t.add(s.Name, stateOf(s.Disabled, ""), s.ID)
			}
			return f.show(cmd, all, t, "rampart.yaml has no services")
		},
	}
}

func serviceDisableCmd(f *adminFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disable NAME",
		Short: "Void a service's certificate and every token that came through it; it gets no other",
		Long: `disable keeps a service from acting until it is enabled: its certificate and all
tokens that it is an actor of are void in every plane within a second, and it
gets no secret, no data key and no other certificate.`,
		Args:              namedArgs,
		ValidArgsFunction: f.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sureOf(f, cmd, listing[wire.ServiceState]{
				wire.AdminServices, "service", "rampart service list", func(s wire.ServiceState) string { return s.Name },
			}, args[0], "stop everything that %s does"); err != nil {
				return err
			}
			return f.setService(cmd, args[0], wire.SubDisable, "service %s is disabled")
		},
	}
	f.addYes(cmd)
	return cmd
}

func serviceEnableCmd(f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "enable NAME",
		Short: "Let a disabled service act again; its sidecar must join anew",
		Long: `enable lets a service act again. The certificate that it had stays void: its
sidecar ends within ten seconds and comes back with a fresh join token, which
rampart up does by itself.`,
		Args:              namedArgs,
		ValidArgsFunction: f.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.setService(cmd, args[0], wire.SubEnable, "service %s may act again, once its sidecar has joined anew")
		},
	}
}

func (f *adminFlags) setService(cmd *cobra.Command, name, sub, done string) error {
	admin, err := f.open()
	if err != nil {
		return err
	}
	if err := admin.call(cmd.Context(), http.MethodPost, itemPath(wire.AdminServices, name, sub), nil, nil); err != nil {
		return err
	}
	return f.tell(cmd, map[string]string{"service": name}, done, name)
}
