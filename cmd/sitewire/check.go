package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sitewire/gateway/config"
)

// checked is the answer of `check --json`.
type checked struct {
	APIVersion string    `json:"api_version"`
	Path       string    `json:"path"`
	Valid      bool      `json:"valid"`
	Errors     []mistake `json:"errors"`
	Warnings   []mistake `json:"warnings"`
}

// mistake is an error or a warning with its place.
type mistake struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func newCheck(a *app) *cobra.Command {
	var out output
	var noSecrets bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Find every mistake in a configuration, without a daemon",
		Long: `Reads FILE (` + defaultConfig + ` unless given) and conf.d beside it as the daemon would, and prints every mistake with
its place. Nothing else of the machine is looked at. The exit code is 5 if there are mistakes; warnings do not count.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := defaultConfig
			if len(args) > 0 {
				path = args[0]
			}
			cfg, err := config.Load(path, config.Options{WithoutSecrets: noSecrets, WebConfig: checkWebConfig})
			if out.json {
				return a.printChecked(path, cfg, err)
			}
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("%s is not valid:\n%w", path, err))
			}
			for _, w := range cfg.Warnings {
				fmt.Fprintln(a.stderr, w)
			}
			_, err = fmt.Fprintf(a.stdout, "%s: ok: site %s, %s, %s, %s\n", path, cfg.Site,
				plural(len(cfg.Peers), "peer"), plural(len(cfg.Neighbours), "neighbour"), announced(len(cfg.Announce)))
			return err
		},
	}
	out.flags(cmd, false)
	cmd.Flags().BoolVar(&noSecrets, "no-secrets", false, "do not read key files and credentials: for a machine that does not have them")
	return cmd
}

func (a *app) printChecked(path string, cfg *config.Config, err error) error {
	c := checked{APIVersion: "v1", Path: path, Valid: err == nil, Errors: []mistake{}, Warnings: []mistake{}}
	if errs, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range errs {
			c.Errors = append(c.Errors, mistake{e.File, e.Line, e.Column, e.Message, e.Hint})
		}
	} else if err != nil {
		c.Errors = append(c.Errors, mistake{Message: err.Error()})
	}
	if cfg != nil {
		for _, w := range cfg.Warnings {
			c.Warnings = append(c.Warnings, mistake{File: w.File, Line: w.Line, Column: w.Column, Message: w.Message})
		}
	}
	if err := a.printValue(c); err != nil {
		return err
	}
	if !c.Valid {
		return silently(exitInvalid)
	}
	return nil
}

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file, for editors",
		Long: `An editor with a YAML language server then completes and checks the file, if its first line is

  # yaml-language-server: $schema=sitewire.schema.json`,
		Example: "  sitewire schema > sitewire.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.stdout.Write(config.Schema())
			return err
		},
	}
}

func announced(n int) string {
	if n == 1 {
		return "1 announced prefix"
	}
	return fmt.Sprintf("%d announced prefixes", n)
}
