package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
)

const (
	defaultConfig = "/etc/sitewire/sitewire.yaml"
	defaultSocket = "/run/sitewire/sitewire.sock"
	socketEnv     = "SITEWIRE_SOCKET"
)

// app is what all commands share: the world outside, and the flags that every command has. It is filled before a command runs and not
// changed afterwards.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) string
	now            func() time.Time

	socket string
	color  string
}

func newApp() *app {
	return &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.Getenv, now: time.Now}
}

// execute runs one command line and returns its exit code. Messages go to stderr here and nowhere else.
func execute(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	started := false
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		started = true
		_, err := a.painter()
		return withCode(exitUsage, err)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code, message := exitFailure, err
	if coded, ok := errors.AsType[codedError](err); ok {
		if coded.quiet {
			return coded.code
		}
		code = coded.code
	} else if !started { // cobra refused the words or the flags
		code, message = exitUsage, fmt.Errorf("%w\nsee `%s --help`", err, cmd.CommandPath())
	}
	fmt.Fprintln(a.stderr, "sitewire:", message)
	return code
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "sitewire",
		Short: "Site-to-site gateway: WireGuard tunnels, BGP over them, routes and allowed-IPs in step",
		Long: `sitewire joins sites: it terminates WireGuard tunnels, speaks BGP over them, and keeps the kernel's routes and
WireGuard's allowed-IPs in step with what BGP learned.

Try it without touching this machine:  sitewire demo
Set a gateway up:                      sitewire genkey --out /etc/sitewire/private.key; sitewire check; sitewire run
Look at a running one:                 sitewire status | peers | bgp | routes | explain ADDRESS

Exit codes: 0 ok, 1 failure, 2 usage, 3 no daemon, 4 degraded (status --fail, doctor --fail), 5 configuration invalid,
7 changes (diff --exit-code); of run: 77 privilege missing, 78 configuration invalid.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	socket := a.env(socketEnv)
	if socket == "" {
		socket = defaultSocket
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", socket, "unix socket of the daemon (also "+socketEnv+")")
	flags.StringVar(&a.color, "color", "auto", "colour: auto (on a terminal, unless NO_COLOR is set), always, never")
	root.AddGroup(
		&cobra.Group{ID: "state", Title: "State of the running gateway:"},
		&cobra.Group{ID: "config", Title: "Configuration:"},
		&cobra.Group{ID: "keys", Title: "Keys:"},
		&cobra.Group{ID: "daemon", Title: "Daemon:"},
		&cobra.Group{ID: "lab", Title: "Try it on this machine:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("state", newStatus(a), newPeers(a), newBGP(a), newRPKI(a), newRoutes(a), newExplain(a))
	add("config", newCheck(a), newDoctor(a), newDiff(a), newReload(a), newConfig(a), newSchema(a), newImport(a), newExport(a))
	add("keys", newGenkey(a), newPubkey(a), newGenpsk(a))
	add("daemon", newRun(a), newStop(a))
	add("lab", newDemo(a), newLab(a))
	root.AddCommand(newVersion(a))
	return root
}

// output is where a listing goes and in which form: flags of the commands that print data.
type output struct {
	json      bool
	noHeaders bool
}

func (o *output) flags(cmd *cobra.Command, table bool) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print the API's answer as JSON")
	if table {
		cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "leave the header line out")
	}
}
