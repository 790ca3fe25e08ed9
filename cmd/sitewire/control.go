package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sitewire/gateway"
)

// Commands that tell the daemon something.

func newReload(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Read the configuration again and apply what changed",
		Long: `Validates everything before it applies anything. Peers that did not change keep their sessions and their traffic; if
the new configuration is refused the old one stays in force (exit code 5). To look first: sitewire diff.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := newClient(a.socket).post(cmd.Context(), "/v1/reload", nil)
			if err != nil {
				return invalid(err, "the old configuration stays in force")
			}
			if out.json {
				return printJSON(a.stdout, raw)
			}
			var ans gateway.Reload
			if err := decode(raw, &ans); err != nil {
				return err
			}
			e := &errWriter{w: a.stdout}
			for _, line := range ans.Changes {
				e.printf("%s\n", line)
			}
			if len(ans.Changes) == 0 {
				fmt.Fprintln(a.stderr, "nothing changed")
			}
			for _, what := range ans.Config.RestartRequired {
				fmt.Fprintf(a.stderr, "%s takes effect at the next start\n", what)
			}
			return e.err
		},
	}
	out.flags(cmd, false)
	return cmd
}

func newDiff(a *app) *cobra.Command {
	var out output
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "diff [FILE]",
		Short: "What a reload would change, without doing it",
		Long: `Compares the configuration in force with the file that the daemon was started with, or with another FILE, and prints
one line for each difference. The daemon reads the file, so what it names must be readable for the daemon.

The exit code is 0 whether there are changes or not; with --exit-code it is 7 if there are.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if len(args) > 0 {
				abs, err := filepath.Abs(args[0]) // the daemon lives in another directory
				if err != nil {
					return err
				}
				q.Set("path", abs)
			}
			ans, raw, err := fetch[gateway.Diff](cmd.Context(), newClient(a.socket), "/v1/diff", q)
			if err != nil {
				return invalid(err, "nothing was changed")
			}
			if out.json {
				err = printJSON(a.stdout, raw)
			} else {
				e := &errWriter{w: a.stdout}
				for _, line := range ans.Changes {
					e.printf("%s\n", line)
				}
				if len(ans.RestartRequired) > 0 {
					fmt.Fprintln(a.stderr, "a reload would be refused: these change only with a restart:", strings.Join(ans.RestartRequired, ", "))
				}
				for _, warning := range ans.Warnings {
					fmt.Fprintln(a.stderr, warning)
				}
				if err = e.err; len(ans.Changes) == 0 {
					fmt.Fprintln(a.stderr, "no changes")
				}
			}
			if err == nil && exitCode && len(ans.Changes) > 0 {
				return silently(exitChanges)
			}
			return err
		},
	}
	out.flags(cmd, false)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 7 if there are changes")
	return cmd
}

// invalid gives the daemon's refusal of a configuration its exit code.
func invalid(err error, sofar string) error {
	if r, ok := errors.AsType[*refused](err); ok && r.status == http.StatusUnprocessableEntity {
		return withCode(exitInvalid, fmt.Errorf("%s:\n%w", sofar, err))
	}
	return err
}

func newStop(a *app) *cobra.Command {
	var teardown bool
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "End the daemon",
		Long: `Waits until it has ended. Without --teardown what can go on without the daemon does: kernel WireGuard devices and their routes stay, so that an
upgrade loses no packet (userspace devices end with their process). With --teardown everything that sitewire made in
this system is removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if teardown {
				q.Set("teardown", "1")
			}
			c := newClient(a.socket)
			if _, err := c.post(cmd.Context(), "/v1/stop", q); err != nil {
				return err
			}
			return c.awaitEnd(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&teardown, "teardown", false, "remove devices, routes, rules and firewall tables too")
	return cmd
}

// configAnswer is what is printed of the answer of GET /v1/config.
type configAnswer struct {
	Config string `json:"config"`
}

func newConfig(a *app) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "config",
		Short: "The configuration in force, complete and in canonical form, without secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ans, raw, err := fetch[configAnswer](cmd.Context(), newClient(a.socket), "/v1/config", nil)
			if err != nil {
				return err
			}
			if out.json {
				return printJSON(a.stdout, raw)
			}
			_, err = fmt.Fprint(a.stdout, ans.Config)
			return err
		},
	}
	out.flags(cmd, false)
	return cmd
}

// awaitEnd waits until nobody answers on the socket any more.
func (c *client) awaitEnd(ctx context.Context) error {
	const limit, every = 40 * time.Second, 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", c.socket)
		if err != nil && ctx.Err() == nil {
			return nil
		}
		if err == nil {
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway was told to stop and still answers on %s: see its log", c.socket)
		case <-tick.C:
		}
	}
}

// printValue prints a value of this program's own as JSON.
func (a *app) printValue(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return printJSON(a.stdout, raw)
}
