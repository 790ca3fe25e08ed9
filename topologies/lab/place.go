package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

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

// Places is the directory that holds the directories of this user's labs: in XDG_RUNTIME_DIR where there is one, else in the directory for
// temporary files. It need not exist.
//
// Whoever can write there could pose as a lab and get descriptors of commands, so a directory that another one could have made or could
// exchange is refused.
func Places() (string, error) {
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		if st, err := look(run); err == nil && ours(st) { // as root by sudo it is somebody else's
			return filepath.Join(run, labsDir), nil
		}
	}
	st, err := look(os.TempDir())
	if err != nil {
		return "", err
	}
	if owner := int(st.Uid); owner != 0 && owner != os.Getuid() || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
		return "", fmt.Errorf("others can exchange files in %s: set TMPDIR to a directory of your own", os.TempDir())
	}
	dir := filepath.Join(os.TempDir(), labsDir+"-"+strconv.Itoa(os.Getuid()))
	return dir, checkPlaces(dir)
}

const labsDir = "sitewire-labs"

func look(dir string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return st, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	return st, nil
}

// ours tells whether it is a directory that only this user can write.
func ours(st unix.Stat_t) bool {
	return int(st.Uid) == os.Getuid() && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&0o022 == 0
}

// checkPlaces looks at Places, if it exists.
func checkPlaces(dir string) error {
	st, err := look(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil && !ours(st):
		return fmt.Errorf("%s is not a directory that only you can write: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return err
}

// lockPlaces makes Places and locks it against other commands that make or remove places, until the file is closed.
func lockPlaces(dir string) (*os.File, error) {
	for {
		// Not MkdirAll, which would follow somebody's link.
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if err := checkPlaces(dir); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // the last lab has just gone
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		locked, err := f.Stat()
		if now, e := os.Stat(dir); err == nil && e == nil && os.SameFile(now, locked) {
			return f, nil
		}
		f.Close() // it was removed while we waited
	}
}

// removePlace removes a place of a directory that is locked, and the directory too if it was the last one.
func removePlace(dir, name string) error {
	err := os.RemoveAll(dir + "/" + name)
	_ = os.Remove(dir) // with another lab in it, the kernel refuses, which is right
	return err
}

// ErrRunning is returned by Listen for a lab that is there already, ErrNotRunning by the methods of a Place for one that is not.
var (
	ErrRunning    = errors.New("the lab is running already")
	ErrNotRunning = errors.New("the lab is not running")
)

// labName is what a lab may be called: its place must not be outside of Places.
var labName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// At is the place of a lab, whether it runs or not.
func At(name string) (Place, error) {
	if !labName.MatchString(name) {
		return Place{}, fmt.Errorf("no lab is called %q", name)
	}
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
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if labName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Birth is a place that is being made: what the keeper is to inherit.
type Birth struct {
	Place
	// Socket is where the keeper listens, Log where it writes, and Dir the directory of all places, for RemoveInherited.
	Socket, Log, Dir *os.File
	lock             *os.File // never inherited: who has the description has the lock
}

// Listen makes the place. What a lab that was killed has left there is removed first. Until Close no other command makes or removes places.
func (p Place) Listen() (_ *Birth, err error) {
	lock, err := lockPlaces(filepath.Dir(p.dir))
	if err != nil {
		return nil, err
	}
	b := &Birth{Place: p, lock: lock}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.Dir, err = os.Open(filepath.Dir(p.dir)); err != nil {
		return nil, err
	}
	if p.Alive() {
		return nil, ErrRunning
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, err
	}
	if b.Log, err = os.OpenFile(filepath.Join(p.dir, logFile), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(p.dir, socketFile)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // this process goes, the keeper stays
	defer l.Close()
	b.Socket, err = l.File()
	return b, err
}

// Started notes the keeper's process, and lets other commands make places again.
func (b *Birth) Started(pid int) error {
	return errors.Join(
		os.WriteFile(filepath.Join(b.dir, pidFile), []byte(strconv.Itoa(pid)+" "+startTime(pid)), 0o600),
		b.Socket.Close(), b.lock.Close())
}

// Abandon removes the place of a keeper that could not be started.
func (b *Birth) Abandon() error {
	return removePlace(filepath.Dir(b.dir), filepath.Base(b.dir))
}

// Said is what the keeper has printed; it can be read after the place is gone too.
func (b *Birth) Said() string {
	text, _ := io.ReadAll(io.NewSectionReader(b.Log, 0, 1<<20)) // there is nothing to say without it
	return string(text)
}

// Close closes the files, of this process only.
func (b *Birth) Close() {
	for _, f := range []*os.File{b.Socket, b.Log, b.Dir, b.lock} {
		if f != nil {
			f.Close()
		}
	}
}

// RemoveInherited removes a place from inside of the lab, where its path leads nowhere: dir is the descriptor of Birth.Dir.
func RemoveInherited(dir *os.File, name string) error {
	path := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	lock, err := os.Open(path) // a description of our own, for the lock belongs to it
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	outside, err := os.Readlink(path)
	if err != nil {
		return err
	}
	return removePlace(path+"/../"+filepath.Base(outside), name) // not cleaned: the path is a link
}
