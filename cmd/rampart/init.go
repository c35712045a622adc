package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rampart-security/rampart/spec"
)

func initCmd() *cobra.Command {
	var opt spec.InitOptions
	var file, run string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a ten-line file for your own service",
		Long:  "init asks three questions, or takes the answers as flags, and writes rampart.yaml. It never overwrites a file.",
		Example: `  rampart init
  rampart init --name shop --service catalog --upstream http://127.0.0.1:9000 --run "python3 -m http.server 9000 --bind 127.0.0.1 --directory site"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				return usageError("%s exists already; choose another name with -f, or remove it first", file)
			}
			opt.Run = strings.Fields(run)
			if err := fits(opt); err != nil {
				return err
			}
			if err := askFor(cmd, &opt); err != nil {
				return err
			}
			b, err := spec.Init(opt)
			if err != nil {
				return byFlag(err, opt.Service)
			}
			if err := os.WriteFile(file, b, 0o644); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; now: rampart check -f %s && rampart up -f %s\n", file, file, file)
			return nil
		},
	}
	fileFlag(cmd, &file)
	fl := cmd.Flags()
	fl.StringVar(&opt.Name, "name", "", "name of the system")
	fl.StringVar(&opt.Service, "service", "", "name of your service")
	fl.StringVar(&opt.Upstream, "upstream", "", "where it listens, http://127.0.0.1:PORT")
	fl.StringVar(&opt.OpenAPI, "openapi", "", "its OpenAPI 3.1 document, beside the file")
	fl.StringVar(&opt.Role, "role", "", "role that may use it (default member)")
	fl.StringVar(&run, "run", "", "command that starts it; without one, start it yourself")
	return cmd
}

// question is what init asks where no flag answered.
type question struct {
	flag, text, fallback string
	answer               func(*spec.InitOptions) *string
}

var questions = []question{
	{"name", "Name of the system", "shop", func(o *spec.InitOptions) *string { return &o.Name }},
	{"service", "Name of your service", "catalog", func(o *spec.InitOptions) *string { return &o.Service }},
	{"upstream", "Where it listens", "http://127.0.0.1:9000", func(o *spec.InitOptions) *string { return &o.Upstream }},
}

// fits judges the answers that there are, as if the others were the usual ones.
func fits(opt spec.InitOptions) error {
	for _, q := range questions {
		if answer := q.answer(&opt); *answer == "" {
			*answer = q.fallback
		}
	}
	_, err := spec.Init(opt)
	return byFlag(err, opt.Service)
}

// byFlag says what a file that init does not write would break in terms of the
// flags that its author knows, once for each.
func byFlag(err error, service string) error {
	bad, ok := errors.AsType[spec.Problems](err)
	if !ok {
		return err
	}
	var out spec.Problems
	for _, p := range bad {
		p = spec.Problem{File: "--" + flagOf(p.Key, service), Msg: p.Msg, Fix: p.Fix}
		if !slices.ContainsFunc(out, func(o spec.Problem) bool { return o.File == p.File }) {
			out = append(out, p)
		}
	}
	return &exitError{exitUsage, out}
}

// flagOf is the flag whose value stands at a key of init's file. The service's name
// may hold anything: it was not judged yet.
func flagOf(key, service string) string {
	last := strings.TrimPrefix(strings.TrimPrefix(key, "services."+service), ".")
	switch {
	case key == "system.name":
		return "name"
	case !strings.HasPrefix(key, "services."):
		return "role" // a flow's allow, and who has it
	case strings.HasPrefix(last, "run"):
		return "run"
	case last == "upstream" || last == "openapi":
		return last
	}
	return "service"
}

// askFor asks what no flag answered, again until the answer fits. Without a
// terminal it says which flags are missing instead of waiting for ever.
func askFor(cmd *cobra.Command, opt *spec.InitOptions) error {
	in := bufio.NewReader(cmd.InOrStdin())
	for _, q := range questions {
		for *q.answer(opt) == "" {
			if !term.IsTerminal(int(os.Stdin.Fd())) {
				return usageError("--%s is missing, and there is no terminal to ask on", q.flag)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s [%s]: ", q.text, q.fallback)
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			*q.answer(opt) = q.fallback
			if line = strings.TrimSpace(line); line != "" {
				*q.answer(opt) = line
			}
			if err := fits(*opt); err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), err)
				*q.answer(opt) = ""
			}
		}
	}
	return nil
}
