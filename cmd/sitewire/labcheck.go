package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"sitewire/topologies"
	"sitewire/topologies/check"
	"sitewire/topologies/lab"
	"sitewire/topologies/netns"
)

func newLabCheck(a *app) *cobra.Command {
	var sites int
	var engine string
	cmd := &cobra.Command{
		Use:   "check NAME",
		Short: "Check that a running network works, in namespaces or in containers",
		Long: `Waits until all sessions of a running network are up, checks that every host reaches every other one and that BGP, the kernel and
WireGuard agree, and exits with the verdict. The network stays as it is.

With --engine docker, or podman, it is the one that containerlab has deployed from the folder containerlab/ of the repository.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := topologies.Build(args[0], sites)
			if err != nil {
				return withCode(exitUsage, err)
			}
			var r check.Runner = containers{w, engine}
			if engine == "" {
				place, err := lab.At(w.Name)
				if err != nil {
					return err
				}
				if !place.Alive() {
					return labError(w.Name, lab.ErrNotRunning)
				}
				r = placed{w, place}
			} else if _, err := r.Exec(cmd.Context(), w.ByRole(topologies.Gateway)[0].Name, "sitewire", "version"); err != nil {
				// Nothing that waiting for would heal.
				return fmt.Errorf("%w; is it deployed? `make -C containerlab deploy LAB=%s`", err, w.Name)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), checkTime(w))
			defer cancel()
			return a.verdict(check.Common(ctx, r))
		},
	}
	sitesFlag(cmd, &sites)
	cmd.Flags().StringVar(&engine, "engine", "", "container engine that the network runs in: docker or podman")
	return cmd
}

// verdict prints what was checked; what does not hold is the command's failure.
func (a *app) verdict(results []check.Result) (err error) {
	p := a.paint()
	out := errWriter{w: a.stdout}
	for _, r := range results {
		word := p.paint(good, "ok  ")
		if r.Err != nil {
			word = p.paint(bad, "FAIL")
			err = silently(exitFailure)
		}
		out.printf("%s %6.1fs  %s (%s)\n", word, r.Took.Seconds(), r.Name, r.Detail)
		if r.Err != nil {
			out.printf("%s\n", r.Err)
		}
	}
	return errors.Join(err, out.err)
}

// containers is a check.Runner over what containerlab has deployed.
type containers struct {
	network *topologies.Network
	engine  string
}

func (c containers) Network() *topologies.Network { return c.network }

func (c containers) Exec(ctx context.Context, node string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.engine, append([]string{"exec", topologies.Container(c.network, node)}, argv...)...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(append(out, exit.Stderr...)))
	}
	return out, err
}

// placed is a check.Runner over a lab in namespaces, which another process holds.
type placed struct {
	network *topologies.Network
	place   lab.Place
}

func (c placed) Network() *topologies.Network { return c.network }

// Has implements check.Toolbox.
func (c placed) Has(_, program string) bool {
	_, err := netns.Program(program)
	return err == nil
}

// Exec does not end before the command does, even if ctx does: the commands of a check are short.
func (c placed) Exec(_ context.Context, node string, argv ...string) ([]byte, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var out [2][]byte
	files := []*os.File{null}
	read := make(chan error, len(out))
	for i := range out {
		r, w, err := os.Pipe()
		if err != nil {
			closeFiles(files[1:])
			return nil, err
		}
		files = append(files, w)
		go func() {
			defer r.Close()
			var err error
			out[i], err = io.ReadAll(r)
			read <- err
		}()
	}
	code, err := c.place.Exec(node, argv, files, nil)
	closeFiles(files[1:])
	for range out {
		err = errors.Join(err, <-read)
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d: %s", code, strings.TrimSpace(string(append(out[0], out[1]...))))
	}
	return out[0], err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
