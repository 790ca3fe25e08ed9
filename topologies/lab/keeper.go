package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/topologies"
)

// request is what a client asks of a Keeper: one JSON object, with the descriptors of an exec beside it.
type request struct {
	Op string `json:"op"` // exec, impair, state, down
	// Of exec: standard input, output and error come as descriptors (SCM_RIGHTS, unix(7)); with Terminal they are one terminal.
	Node     string   `json:"node,omitempty"`
	Argv     []string `json:"argv,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	Env      []string `json:"env,omitempty"`
	Terminal bool     `json:"terminal,omitempty"`
	// Of impair.
	Impair *Impairment `json:"impair,omitempty"`
	// Signal, in messages that follow an exec, goes to its process.
	Signal int `json:"signal,omitempty"`
}

// answer ends every request.
type answer struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
	State *State `json:"state,omitempty"`
}

// State of a running lab.
type State struct {
	// Sites is the size that was asked for, 0 for the usual one.
	Sites int `json:"sites,omitempty"`
	// Since is when it was started; Up tells that all its programs run.
	Since time.Time `json:"since"`
	Up    bool      `json:"up"`
	// Ended names nodes whose daemon has ended by itself.
	Ended    []string   `json:"ended,omitempty"`
	Impaired []Impaired `json:"impaired"`
}

// Keeper serves a Lab to clients on a unix socket that was made outside: the lab's own files are not to be seen there. It serves while the
// lab comes up too, so that it can be ended then.
//
// Owner: the goroutine in Run; each connection has its own.
type Keeper struct {
	network *topologies.Network
	sites   int
	since   time.Time
	lab     atomic.Pointer[Lab]
	down    chan struct{}
	once    sync.Once
}

// NewKeeper makes the keeper of a network that is to come up, of as many sites as was asked for.
func NewKeeper(w *topologies.Network, sites int) *Keeper {
	return &Keeper{network: w, sites: sites, since: time.Now(), down: make(chan struct{})}
}

// Keep hands over the lab when it is up. Whoever made it closes it.
func (k *Keeper) Keep(l *Lab) { k.lab.Store(l) }

// Down is closed when a client has asked for the end.
func (k *Keeper) Down() <-chan struct{} { return k.down }

// lastAnswers is how long clients have to get their answers when the keeper ends.
const lastAnswers = time.Second

// Run serves until ctx ends. Connections that asked for the end are closed only then, or later with the process.
func (k *Keeper) Run(ctx context.Context, l *net.UnixListener) error {
	l.SetUnlinkOnClose(false) // the path is another one here
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var clients sync.WaitGroup
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			return fmt.Errorf("lab's socket: %w", err)
		}
		clients.Go(func() {
			defer c.Close()
			if err := k.serve(ctx, c); err != nil {
				a := answer{Code: 1, Error: err.Error()}
				if coded, ok := errors.AsType[codedError](err); ok {
					a.Code = coded.code
				}
				_ = json.NewEncoder(c).Encode(a) // a client that is gone needs no answer
			}
		})
	}
	answered := make(chan struct{})
	go func() {
		clients.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(lastAnswers):
	}
	return nil
}

// codedError is an error with the exit code that the client should have.
type codedError struct {
	code int
	error
}

func (e codedError) Unwrap() error { return e.error }

// askTime is how long a client may take to say what it wants.
const askTime = 10 * time.Second

func (k *Keeper) serve(ctx context.Context, c *net.UnixConn) error {
	if err := c.SetReadDeadline(time.Now().Add(askTime)); err != nil {
		return err
	}
	r, files, rest, err := receive(c)
	if err != nil {
		return err
	}
	defer closeAll(files)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var a answer
	switch r.Op {
	case "state":
		a.State = k.state()
	case "exec":
		if a.Code, err = k.exec(r, files, rest); err != nil {
			return err
		}
	case "impair":
		l := k.lab.Load()
		switch {
		case l == nil:
			return errComing
		case r.Impair == nil:
			return errors.New("no impairment given")
		}
		if err := l.Impair(ctx, *r.Impair); err != nil {
			return err
		}
	case "down":
		k.once.Do(func() { close(k.down) })
		if err := json.NewEncoder(c).Encode(a); err != nil {
			return nil // it does not want to know
		}
		<-ctx.Done() // the end of the connection is the sign of the end
		return nil
	default:
		return fmt.Errorf("%q is nothing that a lab does", r.Op)
	}
	return json.NewEncoder(c).Encode(a)
}

var errComing = errors.New("the lab is still coming up")

func (k *Keeper) state() *State {
	s := &State{Sites: k.sites, Since: k.since}
	if l := k.lab.Load(); l != nil {
		s.Up, s.Ended, s.Impaired = true, l.Ended(), l.Impaired()
	}
	return s
}

// receive reads the first message and its descriptors. What came behind it in the same packet is in the reader, before the connection.
func receive(c *net.UnixConn) (r request, files []*os.File, rest io.Reader, err error) {
	const most = 3
	text, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(most*4))
	n, cn, _, _, err := c.ReadMsgUnix(text, control)
	if err != nil {
		return r, nil, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		return r, nil, nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // another kind of message
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "client"))
		}
	}
	d := json.NewDecoder(io.MultiReader(bytes.NewReader(text[:n]), c))
	if err := d.Decode(&r); err != nil {
		closeAll(files)
		return r, nil, nil, fmt.Errorf("request: %w", err)
	}
	return r, files, io.MultiReader(d.Buffered(), c), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
