package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastWords is how long output of a shell that has ended is waited for.
const lastWords = 200 * time.Millisecond

// runOnPTY runs an interactive command on a pseudo-terminal of its own, see onPTY.
func runOnPTY(cmd *exec.Cmd, tty *os.File) error {
	_, err := onPTY(tty, func(slave *os.File, signals <-chan os.Signal) (int, error) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			return 0, fmt.Errorf("shell: %w", err)
		}
		slave.Close()
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			for {
				select {
				case <-signals:
					_ = cmd.Process.Signal(syscall.SIGHUP) // what ends an interactive shell; it may have ended
				case <-ended:
					return
				}
			}
		}()
		return 0, cmd.Wait()
	})
	return err
}

// onPTY makes a pseudo-terminal and relays between it and the real one, which is in raw mode meanwhile, while run has something run on
// it. What runs is to be the leader of a session with the pseudo-terminal as its controlling terminal, which it could not get from a
// terminal that belongs to another session: then job control and Ctrl-C work as anywhere. Signals are those that are meant to end it.
func onPTY(tty *os.File, run func(slave *os.File, signals <-chan os.Signal) (int, error)) (int, error) {
	master, slave, err := openPTY()
	if err != nil {
		return 0, fmt.Errorf("pseudo-terminal: %w", err)
	}
	defer master.Close()
	defer slave.Close()
	resize := func() {
		if size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size) // a wrong size is ugly, not wrong
		}
	}
	resize()
	restore, err := rawMode(tty)
	if err != nil {
		return 0, fmt.Errorf("terminal: %w", err)
	}
	defer restore()

	sigs, ending := make(chan os.Signal, 4), make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGWINCH)
	defer signal.Stop(sigs)
	go io.Copy(master, tty) // ends with this process: a read from a terminal cannot be called off
	drained := make(chan struct{})
	go func() {
		io.Copy(os.Stdout, master) // until the last process on the pseudo-terminal has ended
		close(drained)
	}()
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := run(slave, ending)
		slave.Close()
		ended <- result{code, err}
	}()
	for {
		select {
		case s := <-sigs:
			if s == syscall.SIGWINCH {
				resize()
				continue
			}
			select {
			case ending <- s:
			default: // it has been told often enough
			}
		case r := <-ended:
			select { // a process left in the background may keep it open
			case <-drained:
			case <-time.After(lastWords):
			}
			return r.code, r.err
		}
	}
}

// openPTY makes a pseudo-terminal.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("unlock: %w", err), master.Close())
	}
	// By descriptor and not by name: /dev/pts may be another one here.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, errors.Join(fmt.Errorf("other end: %w", errno), master.Close())
	}
	return master, os.NewFile(fd, "pty"), nil
}

// rawMode makes a terminal pass every byte on (termios(3), "Raw mode") and returns what undoes it.
func rawMode(tty *os.File) (restore func(), err error) {
	fd := int(tty.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil // a terminal that is gone needs nothing
}
