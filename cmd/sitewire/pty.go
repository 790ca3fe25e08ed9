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

// runOnPTY runs an interactive command on a pseudo-terminal of its own and relays between that and the real one, which is in raw mode
// meanwhile. The command is thereby the leader of a session with a controlling terminal, which it could not get from a terminal that
// belongs to another session: job control and Ctrl-C work as anywhere.
func runOnPTY(cmd *exec.Cmd, tty *os.File) error {
	master, slave, err := openPTY()
	if err != nil {
		return fmt.Errorf("pseudo-terminal: %w", err)
	}
	defer master.Close()
	resize := func() {
		if size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size) // a wrong size is ugly, not wrong
		}
	}
	resize()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	restore, err := rawMode(tty)
	if err != nil {
		return errors.Join(fmt.Errorf("terminal: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	defer restore()

	sigs := make(chan os.Signal, 4)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGWINCH)
	defer signal.Stop(sigs)
	go io.Copy(master, tty) // ends with this process: a read from a terminal cannot be called off
	drained := make(chan struct{})
	go func() {
		io.Copy(os.Stdout, master) // until the last process on the pseudo-terminal has ended
		close(drained)
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-sigs:
			if s == syscall.SIGWINCH {
				resize()
			} else {
				_ = cmd.Process.Signal(syscall.SIGHUP) // what ends an interactive shell; it may have ended
			}
		case err := <-ended:
			select { // a process left in the background may keep it open
			case <-drained:
			case <-time.After(lastWords):
			}
			return err
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
