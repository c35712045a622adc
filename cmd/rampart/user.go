package main

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/rampart-security/rampart/internal/wire"
)

func userCmd() *cobra.Command {
	var stateDir string
	cmd := group("user", "Create local accounts, set passwords, end everything an account holds")
	cmd.PersistentFlags().StringVar(&stateDir, "state", ".rampart", "state folder of the running system")
	cmd.AddCommand(userAddCmd(&stateDir), userPasswordCmd(&stateDir), userRevokeCmd(&stateDir))
	return cmd
}

func userAddCmd(stateDir *string) *cobra.Command {
	var u wire.User
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "Create an account; the password is read from standard input",
		Example: "  rampart user add frank --role customer --org acme < password.txt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, _, err := openAdmin(*stateDir)
			if err != nil {
				return err
			}
			_, found, err := findUser(cmd, admin, args[0])
			if err != nil {
				return err
			}
			if found {
				return usageError("there is a user %s already; a new password is set by: rampart user password %s", args[0], args[0])
			}
			u.Name = args[0]
			return putUser(cmd, admin, u)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&u.Facts.Roles, "role", nil, "role, may be repeated")
	fl.StringArrayVar(&u.Facts.Organizations, "org", nil, "organization, may be repeated; the first is the home tenant")
	fl.StringVar(&u.Facts.Team, "team", "", "team")
	fl.StringArrayVar(&u.Facts.ManagedTeams, "manages", nil, "team that the user manages, may be repeated")
	return cmd
}

func userPasswordCmd(stateDir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "password NAME",
		Short: "Set a new password from standard input; ends every session and token of the account",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, _, err := openAdmin(*stateDir)
			if err != nil {
				return err
			}
			u, found, err := findUser(cmd, admin, args[0])
			if err != nil {
				return err
			}
			if !found {
				return usageError("there is no user %s", args[0])
			}
			return putUser(cmd, admin, u)
		},
	}
}

func userRevokeCmd(stateDir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "End every session and token of the account, in every plane, within a second",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, _, err := openAdmin(*stateDir)
			if err != nil {
				return err
			}
			if _, found, err := findUser(cmd, admin, args[0]); err != nil || !found {
				return cmpErr(err, usageError("there is no user %s", args[0]))
			}
			if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminRevoke, wire.Revocation{Kind: "sub", ID: "user:" + args[0]}, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "everything that user:%s held is void\n", args[0])
			return nil
		},
	}
}

func findUser(cmd *cobra.Command, admin *adminClient, name string) (wire.User, bool, error) {
	var all []wire.User
	if err := admin.call(cmd.Context(), http.MethodGet, wire.AdminUsers, nil, &all); err != nil {
		return wire.User{}, false, err
	}
	i := slices.IndexFunc(all, func(u wire.User) bool { return u.Name == name })
	if i < 0 {
		return wire.User{}, false, nil
	}
	return all[i], true, nil
}

func putUser(cmd *cobra.Command, admin *adminClient, u wire.User) error {
	password, err := readSecret(cmd, "password")
	if err != nil {
		return err
	}
	u.Password = string(password)
	if err := admin.call(cmd.Context(), http.MethodPost, wire.AdminUsers, u, nil); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "user %s is set\n", u.Name)
	return nil
}
