package main

import (
	"github.com/spf13/cobra"
)

// renderCmd holds what other programs are configured with, derived from the file.
func renderCmd() *cobra.Command {
	cmd := group("render", "Print configuration of other programs, derived from the file")
	cmd.Long = `render prints what programs beside Rampart need to know of the system, so that the
file stays the only place where it is written down. The output depends on the
file and the flags alone: keep it under version control, and a check in CI that
renders it again shows what has changed.`
	cmd.Example = `  rampart render pgbouncer payments_db --server db.internal:5432 > pgbouncer.ini`
	cmd.AddCommand(renderPgBouncerCmd())
	return cmd
}
