package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Alive tells whether the lab answers.
func (p Place) Alive() bool {
	c, err := p.dial()
	if err == nil {
		c.Close()
	}
	return err == nil
}

// Exec runs a command on a node with these descriptors: input, output and error, or one terminal for all. Signals that come are passed
// on. It returns the command's exit code, 128 + n if signal n ended it; with an error, the code is what a shell would return for it, or 0.
func (p Place) Exec(node string, argv []string, files []*os.File, signals <-chan os.Signal) (int, error) {
	r := request{Op: "exec", Node: node, Argv: slices.Clone(argv), Terminal: len(files) == 1}
	r.Dir, _ = os.Getwd() // without one the command starts in /
	if strings.Contains(argv[0], "/") {
		if abs, err := filepath.Abs(argv[0]); err == nil {
			r.Argv[0] = abs // the keeper is in another directory
		}
	}
	for _, name := range []string{"TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_ALL", "LC_CTYPE"} {
		if v, ok := os.LookupEnv(name); ok {
			r.Env = append(r.Env, name+"="+v)
		}
	}
	a, err := p.ask(r, files, signals)
	return a.Code, err
}

// Impair changes a cable of the lab.
func (p Place) Impair(i Impairment) error {
	_, err := p.ask(request{Op: "impair", Impair: &i}, nil, nil)
	return err
}

// State asks how the lab is.
func (p Place) State() (*State, error) {
	a, err := p.ask(request{Op: "state"}, nil, nil)
	if errors.Is(err, errGone) {
		return nil, fmt.Errorf("%w (%w)", ErrNotRunning, err)
	}
	if err == nil && a.State == nil {
		err = errors.New("the lab does not say how it is")
	}
	return a.State, err
}

// errGone is the error of requests that the end of the lab cuts short.
var errGone = errors.New("the lab went away")

// How long a lab may take to end in good order, and to go when it is killed.
const (
	downPatience = 20 * time.Second
	killPatience = 5 * time.Second
)

// Down ends the lab and removes its place; when it returns nothing of the lab is left. A keeper that does not listen is killed, and the
// kernel ends the rest with it.
func (p Place) Down() error {
	if _, err := os.Lstat(p.dir); err != nil {
		return ErrNotRunning
	}
	outer := p.outer()
	// The connection ends when the last process that holds the socket has ended, however it does.
	if c, err := p.dial(); err == nil {
		defer c.Close()
		text, err := json.Marshal(request{Op: "down"})
		if err != nil {
			return err
		}
		_, _ = c.Write(append(text, '\n')) // what does not listen is killed
		if !gone(c, outer, downPatience) {
			if err := outer.kill(); err != nil {
				return err
			}
			if !gone(c, outer, killPatience) {
				return fmt.Errorf("the lab's process %d was killed, but does not end", outer.pid)
			}
		}
	} else if outer.alive() { // it is about to end
		if err := outer.kill(); err != nil {
			return err
		}
		for end := time.Now().Add(killPatience); outer.alive() && time.Now().Before(end); {
			time.Sleep(pidPoll)
		}
	}
	dir := filepath.Dir(p.dir)
	if _, err := os.Lstat(p.dir); err != nil {
		return nil // it tidied up itself
	}
	lock, err := lockPlaces(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if p.Alive() {
		return nil // somebody has started it anew meanwhile
	}
	return removePlace(dir, filepath.Base(p.dir))
}

const pidPoll = 5 * time.Millisecond

// gone waits until the lab behind a connection and its outermost process have ended.
func gone(c *net.UnixConn, outer process, patience time.Duration) bool {
	end := time.Now().Add(patience)
	if err := c.SetReadDeadline(end); err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	for outer.alive() {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pidPoll)
	}
	return true
}

// process is one that may have ended. A number is used again, so the time of its start belongs to it.
type process struct {
	pid     int
	started string
}

// outer is the keeper's outermost process; the zero value if nothing is known of one.
func (p Place) outer() process {
	b, err := os.ReadFile(filepath.Join(p.dir, pidFile))
	if err != nil {
		return process{}
	}
	text, started, _ := strings.Cut(string(b), " ")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 || started == "" {
		return process{}
	}
	return process{pid, started}
}

func (p process) alive() bool { return p.pid != 0 && startTime(p.pid) == p.started }

func (p process) kill() error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end the lab's process %d: %w", p.pid, err)
	}
	return nil
}

// startTime is field 22 of proc_pid_stat(5), and empty for a process that has ended.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may have blanks
	if fields := strings.Fields(rest); len(fields) > 19 && fields[0] != "Z" {
		return fields[19]
	}
	return ""
}

func (p Place) dial() (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: filepath.Join(p.dir, socketFile)})
	if err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrNotRunning, err)
	}
	return c, nil
}

func (p Place) ask(r request, files []*os.File, signals <-chan os.Signal) (answer, error) {
	c, err := p.dial()
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	text, err := json.Marshal(r)
	if err != nil {
		return answer{}, err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(text, rights, nil); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errGone, err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s, ok := <-signals:
				if sig, is := s.(syscall.Signal); ok && is {
					_ = json.NewEncoder(c).Encode(request{Signal: int(sig)}) // a lab that is gone takes no signals
				}
				if !ok {
					return
				}
			case <-done:
				return
			}
		}
	}()
	var a answer
	if err := json.NewDecoder(c).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errGone, err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
