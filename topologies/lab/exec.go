package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// Exit codes of commands that could not be started, as shells have them.
const (
	codeUsage      = 2
	codeNoExec     = 126
	codeNotFound   = 127
	codeSignalBase = 128
)

// exec runs a command with the client's descriptors, passes the client's signals on and returns the exit code. A client that goes away
// hangs the command up, and so does the end of the lab.
func (k *Keeper) exec(r request, files []*os.File, messages io.Reader) (int, error) {
	l := k.lab.Load()
	if l == nil {
		return 0, errComing
	}
	want := 3
	if r.Terminal {
		want = 1
	}
	if len(files) != want {
		return 0, fmt.Errorf("%d descriptors came with a command, want %d", len(files), want)
	}
	if l.NS(r.Node) == nil {
		return 0, codedError{codeUsage, l.network.NoNode(r.Node)}
	}
	cmd, err := l.Command(context.Background(), r.Node, r.Argv...)
	if err != nil {
		return 0, err
	}
	if cmd.Err != nil {
		return 0, notStarted(cmd.Err)
	}
	cmd.Env = append(append(os.Environ(), "SITEWIRE_SOCKET="), r.Env...)
	if st, err := os.Stat(r.Dir); err == nil && st.IsDir() {
		cmd.Dir = r.Dir
	} else {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.Terminal {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[0], files[0]
		cmd.SysProcAttr.Setctty = true
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	}
	if err := cmd.Start(); err != nil {
		return 0, notStarted(err)
	}
	closeAll(files)
	ended := make(chan struct{})
	hangUp := func(sig syscall.Signal) {
		select {
		case <-ended:
		default:
			_ = syscall.Kill(-cmd.Process.Pid, sig) // its own session, so all that it started; it may have ended
		}
	}
	go func() {
		d := json.NewDecoder(messages)
		for {
			var m request
			if err := d.Decode(&m); err != nil {
				hangUp(syscall.SIGHUP)
				return
			}
			hangUp(syscall.Signal(m.Signal))
		}
	}()
	go func() {
		select {
		case <-k.down:
			hangUp(syscall.SIGHUP) // what does not end now is killed with its namespace
		case <-ended:
		}
	}()
	err = cmd.Wait()
	close(ended)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return codeSignalBase + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// notStarted gives an error the exit code that a shell would end with.
func notStarted(err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return codedError{codeNotFound, err}
	case errors.Is(err, fs.ErrPermission):
		return codedError{codeNoExec, err}
	}
	return err
}
