// Command sitewire is a site-to-site gateway: WireGuard tunnels, BGP over them, and the kernel's routes and WireGuard's
// allowed-IPs kept in step with what BGP learned.
//
// Job: sub-commands, flags, signals and exit codes; choosing backends and wiring the daemon; the demo.
// Owner: nobody; the daemon's state belongs to package gateway, what the other commands print comes from its API.
// Inputs: arguments, SITEWIRE_SOCKET, NO_COLOR, the configuration file, the daemon's unix socket.
// Outputs: data on stdout, messages on stderr, the exit codes of exit.go.
// Invariants: no secret is printed but by genkey and genpsk; the API's JSON is passed on unchanged; rendering is pure.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"sitewire/topologies/netns"
)

func main() { os.Exit(mainCode()) }

// mainCode runs the command line and returns the process's exit code.
func mainCode() int {
	if err := enterLab(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "sitewire:", err)
		return exitFailure
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	return execute(ctx, newApp(), os.Args[1:])
}

// enterLab moves `sitewire demo`, the commands that hold a lab, and what these start, into namespaces of its own. Every other command stays where it is. A machine
// without namespaces is not an error yet: the demo itself says what is missing.
func enterLab(args []string) error {
	demo := len(args) > 1 && args[1] == "demo" && !slices.Contains(args, "--help") && !slices.Contains(args, "-h")
	if !demo && !entersLab(args[1:]) && !netns.Inside() {
		return nil
	}
	if demo && !netns.Inside() {
		if err := handInListeners(args[2:]); err != nil {
			return err
		}
	}
	err := netns.Enter()
	if _, ok := errors.AsType[*netns.Unavailable](err); ok {
		return nil
	}
	return err
}
