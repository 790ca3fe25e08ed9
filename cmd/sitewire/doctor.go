package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/gateway/config"
)

// severity of a finding: what keeps a gateway from running, what makes it worse than it could be, what one should know, and what is well.
type severity string

const (
	isError   severity = "error"
	isWarning severity = "warning"
	isNote    severity = "note"
	isOK      severity = "ok"
)

// finding is what doctor says of one thing.
type finding struct {
	Check    string   `json:"check"`
	Severity severity `json:"severity"`
	Found    string   `json:"found"`
	Fix      string   `json:"fix,omitempty"`
}

// diagnosis is the answer of `doctor --json`.
type diagnosis struct {
	APIVersion string    `json:"api_version"`
	Config     string    `json:"config,omitempty"`
	Errors     int       `json:"errors"`
	Warnings   int       `json:"warnings"`
	Findings   []finding `json:"findings"`
}

func newDoctor(a *app) *cobra.Command {
	var out output
	var fail bool
	cmd := &cobra.Command{
		Use:   "doctor [FILE]",
		Short: "Look at this machine for what a gateway needs, and change nothing",
		Long: `Looks at the kernel, its settings, this process' rights and limits, and what other programs do with routes, and prints
what it found with what to do about it, worst first. With the configuration FILE (` + defaultConfig + ` if it is there) it
knows what that gateway needs; without one it says what any would. In a container it tells what can be seen from inside.

Errors keep a gateway from running, warnings make it lose packets or work less well, notes are good to know. With
--fail the exit code is 4 if there are errors or warnings.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := ""
			if len(args) > 0 {
				path = args[0]
			}
			d := examine(cmd.Context(), newPatient(a.socket, path, a.now()))
			var err error
			if out.json {
				err = a.printValue(d)
			} else {
				err = renderDiagnosis(a.stdout, a.paint(), d)
			}
			if err == nil && fail && d.Errors+d.Warnings > 0 {
				return silently(exitDegraded)
			}
			return err
		},
	}
	out.flags(cmd, false)
	cmd.Flags().BoolVar(&fail, "fail", false, "exit with 4 if there are errors or warnings")
	return cmd
}

// examine runs all checks.
func examine(ctx context.Context, p *patient) diagnosis {
	list := p.configuration()
	return diagnose(p, append(list, p.look(ctx)...))
}

// look runs the checks that are about the machine.
func (p *patient) look(ctx context.Context) (list []finding) {
	for _, check := range []func(context.Context) []finding{
		p.place, p.rights, p.wireguard, p.tun, p.nft, p.forwarding, p.nexthops, p.buffers, p.protocolName, p.writers, p.clockSet, p.openFiles, p.memory,
	} {
		list = append(list, check(ctx)...)
	}
	return list
}

// diagnose counts findings and sorts them: worst first, and else in the order of the checks.
func diagnose(p *patient, list []finding) diagnosis {
	d := diagnosis{APIVersion: "v1", Findings: list}
	if p.cfg != nil {
		d.Config = p.cfg.Path
	}
	rank := []severity{isError, isWarning, isNote, isOK}
	slices.SortStableFunc(d.Findings, func(a, b finding) int {
		return cmp.Compare(slices.Index(rank, a.Severity), slices.Index(rank, b.Severity))
	})
	for _, f := range d.Findings {
		switch f.Severity {
		case isError:
			d.Errors++
		case isWarning:
			d.Warnings++
		}
	}
	return d
}

// configuration loads the file as `check` does, with its secrets, and passes on what that says.
func (p *patient) configuration() []finding {
	const check = "configuration"
	path := cmp.Or(p.path, defaultConfig)
	if _, err := os.Stat(path); p.path == "" && errors.Is(err, os.ErrNotExist) {
		return []finding{{check, isNote, "there is no " + defaultConfig + ": only what any gateway needs is looked at", "sitewire doctor FILE"}}
	}
	cfg, err := config.Load(path, config.Options{WebConfig: checkWebConfig})
	if err != nil {
		return []finding{{check, isError, "not valid: " + mistakesOf(err), "sitewire check " + path + " shows every mistake"}}
	}
	p.cfg = cfg
	var list []finding
	for _, w := range cfg.Warnings {
		list = append(list, finding{check, isWarning, w.String(), ""})
	}
	if len(list) == 0 {
		list = append(list, finding{check, isOK, path + " is valid; the files of its secrets are readable by their owner only", ""})
	}
	return list
}

// mistakesOf is the first line of an error, with how many more there are.
func mistakesOf(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%s (and %s)", lines[0], plural(len(lines)-1, "more line"))
}

func renderDiagnosis(w io.Writer, p painter, d diagnosis) error {
	e := &errWriter{w: w}
	verdict, look := "nothing is in the way", good
	if d.Errors+d.Warnings > 0 {
		verdict, look = plural(d.Errors, "error")+", "+plural(d.Warnings, "warning"), bad
	}
	e.printf("%s: %s\n", p.paint(bold, "sitewire doctor"), p.paint(look, verdict))
	looks := map[severity]style{isError: bad, isWarning: warn, isNote: plain, isOK: good}
	for _, f := range d.Findings {
		e.printf("  %s  %s: %s\n", p.paint(looks[f.Severity], fmt.Sprintf("%-7s", f.Severity)), p.paint(bold, f.Check), f.Found)
		if f.Fix != "" {
			e.printf("           %s %s\n", p.paint(faint, "->"), f.Fix)
		}
	}
	return e.err
}
