package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Place is the directory of a running lab outside of it: the keeper's socket, its log, its process number. It is there as long as the lab
// is, and longer if that was killed; Down removes it then too.
type Place struct{ dir string }

const (
	socketFile = "socket"
	pidFile    = "pid"
	logFile    = "log"
)

// Places is the directory that holds the directories of this user's labs: in XDG_RUNTIME_DIR where there is one. Nobody else may be able
// to write there: who can, could pose as a lab.
func Places() (string, error) {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "sitewire-"+strconv.Itoa(os.Getuid()))
	} else {
		dir = filepath.Join(dir, "sitewire")
	}
	dir = filepath.Join(dir, "labs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, d := range []string{filepath.Dir(dir), dir} {
		var st unix.Stat_t
		if err := unix.Lstat(d, &st); err != nil {
			return "", fmt.Errorf("%s: %w", d, err)
		}
		if int(st.Uid) != os.Getuid() || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o022 != 0 {
			return "", fmt.Errorf("%s is not a directory that only you can write: remove it, or set XDG_RUNTIME_DIR", d)
		}
	}
	return dir, nil
}

// ErrRunning is returned by NewPlace for a lab that is there already, ErrNotRunning by the methods of a Place for one that is not.
var (
	ErrRunning    = errors.New("the lab is running already")
	ErrNotRunning = errors.New("the lab is not running")
)

// At is the place of a lab, whether it runs or not.
func At(name string) (Place, error) {
	dir, err := Places()
	if err != nil {
		return Place{}, err
	}
	return Place{filepath.Join(dir, name)}, nil
}

// Running lists the names of the labs that have a place.
func Running() ([]string, error) {
	dir, err := Places()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Listen makes the place and the socket that the keeper is to inherit. What a lab that was killed has left is removed first.
func (p Place) Listen() (*net.UnixListener, *os.File, error) {
	if c, err := p.dial(); err == nil {
		c.Close()
		return nil, nil, ErrRunning
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(p.dir, socketFile)})
	if err != nil {
		log.Close()
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // this process goes, the keeper stays
	return l, log, nil
}

// SetPid notes the keeper's process.
func (p Place) SetPid(pid int) error {
	return os.WriteFile(filepath.Join(p.dir, pidFile), []byte(strconv.Itoa(pid)+" "+startTime(pid)), 0o600)
}

// Log is what the keeper has printed.
func (p Place) Log() string {
	b, _ := os.ReadFile(filepath.Join(p.dir, logFile)) // there is nothing to say without one
	return string(b)
}

// Alive tells whether the lab answers.
func (p Place) Alive() bool {
	c, err := p.dial()
	if err == nil {
		c.Close()
	}
	return err == nil
}

// Exec runs a command on a node with these descriptors: input, output and error, or one terminal for all. Signals that come are passed
// on. It returns the command's exit code, 128 + n if signal n ended it.
func (p Place) Exec(node string, argv []string, files []*os.File, signals <-chan os.Signal) (int, error) {
	return p.ask(request{Op: "exec", Node: node, Argv: argv, Terminal: len(files) == 1}, files, signals)
}

// Impair changes a cable of the lab.
func (p Place) Impair(i Impairment) error {
	_, err := p.ask(request{Op: "impair", Impair: &i}, nil, nil)
	return err
}

// downPatience is how long a lab may take to end in good order.
const downPatience = 20 * time.Second

// Down ends the lab and removes its place. A keeper that does not listen is killed, and the kernel ends the rest with it.
func (p Place) Down() error {
	if _, err := os.Stat(p.dir); err != nil {
		return ErrNotRunning
	}
	asked := false
	if _, err := p.ask(request{Op: "down"}, nil, nil); err == nil {
		asked = true
	}
	if pid := p.pid(); pid != 0 {
		patience := time.Now().Add(downPatience)
		for p.pid() != 0 && asked && time.Now().Before(patience) {
			time.Sleep(10 * time.Millisecond)
		}
		if p.pid() != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end the lab's process %d: %w", pid, err)
			}
			for p.pid() != 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	return os.RemoveAll(p.dir)
}

// pid is the keeper's process, 0 if it has ended: a number is used again, so the time of its start has to be the same.
func (p Place) pid() int {
	b, err := os.ReadFile(filepath.Join(p.dir, pidFile))
	if err != nil {
		return 0
	}
	text, started, _ := strings.Cut(string(b), " ")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 || startTime(pid) != started {
		return 0
	}
	return pid
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

func (p Place) ask(r request, files []*os.File, signals <-chan os.Signal) (int, error) {
	c, err := p.dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	text, err := json.Marshal(r)
	if err != nil {
		return 0, err
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
		return 0, fmt.Errorf("ask the lab: %w", err)
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
		return 0, fmt.Errorf("the lab went away: %w", err)
	}
	if a.Error != "" {
		return a.Code, errors.New(a.Error)
	}
	return a.Code, nil
}
