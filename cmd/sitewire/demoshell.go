package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"sitewire/topologies/netns"
)

// makeCommands makes a directory of commands for the demo's shell: sitewire itself, and one for each namespace that runs a command
// there. It is beside the namespaces' own directories, which all of them see.
func (l *demoLab) makeCommands() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	shared := filepath.Dir(filepath.Dir(filepath.Dir(l.internet.RunDir()))) // ROOT/ns/NAME/run
	l.bin = filepath.Join(shared, "demo", "bin")
	if err := os.MkdirAll(l.bin, 0o755); err != nil {
		return err
	}
	self := filepath.Join(l.bin, "sitewire")
	if err := os.Symlink(exe, self); err != nil {
		return err
	}
	all := []*netns.NS{l.internet}
	for _, s := range l.sites {
		all = append(all, s.gw, s.lan)
	}
	for _, n := range all {
		// What Command would start, so that the script goes the same way.
		prefix := n.Command(context.Background(), "true").Args[:2]
		script := fmt.Sprintf("#!/bin/sh\nexec %s demo in %s %s \"$@\"\n", self, prefix[0], prefix[1])
		if err := os.WriteFile(filepath.Join(l.bin, n.Name()), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// newDemoIn is what the commands of makeCommands call.
func newDemoIn() *cobra.Command {
	return &cobra.Command{
		Use:                "in ARGV0 NAMESPACE [COMMAND ARGUMENT...]",
		Hidden:             true,
		Args:               cobra.MinimumNArgs(2),
		DisableFlagParsing: true, // they are the command's
		RunE: func(_ *cobra.Command, args []string) error {
			if !netns.Inside() {
				return errors.New("this is for the shell of `sitewire demo`")
			}
			argv := args[2:]
			if len(argv) == 0 {
				argv = shellArgs(args[1])
			}
			path, err := netns.Program(argv[0])
			if err != nil {
				return err
			}
			return syscall.Exec("/proc/self/exe", append([]string{args[0], args[1], path}, argv...), os.Environ())
		},
	}
}

// shellArgs is an interactive shell that says where it is.
func shellArgs(where string) []string {
	if _, err := exec.LookPath("bash"); err != nil {
		return []string{"sh", "-i"}
	}
	return []string{"env", "PS1=" + where + "$ ", "bash", "--norc", "-i"}
}

// demoShell runs a shell inside the lab until it ends.
func (a *app) demoShell(l *demoLab) error {
	argv := shellArgs("demo")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+l.bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	err := runOnPTY(cmd, os.Stdin)
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil // the exit code of the last command typed is not the demo's
	}
	return err
}
