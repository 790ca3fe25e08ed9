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
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
)

// request is what a client asks of a Keeper: one JSON object, with the descriptors of an exec beside it.
type request struct {
	Op string `json:"op"` // exec, impair, down
	// Of exec: standard input, output and error come as descriptors (SCM_RIGHTS, unix(7)); with Terminal they are one terminal.
	Node     string   `json:"node,omitempty"`
	Argv     []string `json:"argv,omitempty"`
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
}

// Keeper serves a Lab to clients on a unix socket that was made outside: the lab's own files are not to be seen there.
//
// Owner: the goroutine in Run; each connection has its own.
type Keeper struct {
	lab  *Lab
	down chan struct{}
	once sync.Once
}

// NewKeeper keeps a lab that is up. It does not close it.
func NewKeeper(l *Lab) *Keeper { return &Keeper{lab: l, down: make(chan struct{})} }

// Run serves until ctx ends, a client asks for the end, or something of the lab has died, which is an error.
func (k *Keeper) Run(ctx context.Context, l *net.UnixListener) error {
	l.SetUnlinkOnClose(false) // the path is another one here
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	go func() {
		<-k.down
		l.Close()
	}()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("lab's socket: %w", err)
		}
		clients.Go(func() {
			defer c.Close()
			if err := k.serve(ctx, c); err != nil {
				_ = json.NewEncoder(c).Encode(answer{Code: 1, Error: err.Error()}) // a client that is gone needs no answer
			}
		})
	}
}

func (k *Keeper) serve(ctx context.Context, c *net.UnixConn) error {
	r, files, rest, err := receive(c)
	if err != nil {
		return err
	}
	defer closeAll(files)
	switch r.Op {
	case "exec":
		return k.exec(ctx, c, r, files, rest)
	case "impair":
		if r.Impair == nil {
			return errors.New("no impairment given")
		}
		if err := k.lab.Impair(ctx, *r.Impair); err != nil {
			return err
		}
	case "down":
		k.once.Do(func() { close(k.down) })
	default:
		return fmt.Errorf("%q is nothing that a lab does", r.Op)
	}
	return json.NewEncoder(c).Encode(answer{})
}

// exec runs a command with the client's descriptors and passes the client's signals on. A client that goes away hangs it up.
func (k *Keeper) exec(ctx context.Context, c *net.UnixConn, r request, files []*os.File, rest io.Reader) error {
	want := 3
	if r.Terminal {
		want = 1
	}
	if len(files) != want {
		return fmt.Errorf("%d descriptors came with a command, want %d", len(files), want)
	}
	cmd, err := k.lab.Command(context.WithoutCancel(ctx), r.Node, r.Argv...)
	if err != nil {
		return err
	}
	if cmd.Err != nil {
		return cmd.Err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.Terminal {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[0], files[0]
		cmd.SysProcAttr.Setctty = true
	} else {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	closeAll(files)
	ended := make(chan struct{})
	go func() {
		messages := json.NewDecoder(rest)
		for {
			var m request
			sig := syscall.SIGHUP
			err := messages.Decode(&m)
			if err == nil {
				sig = syscall.Signal(m.Signal)
			}
			select {
			case <-ended:
				return
			default:
				_ = syscall.Kill(-cmd.Process.Pid, sig) // its own session, so all that it started; it may have ended
			}
			if err != nil {
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
	} else if err != nil {
		return err
	}
	return json.NewEncoder(c).Encode(answer{Code: code})
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

// Impairment is what a cable does to packets. The zero value heals it.
type Impairment struct {
	// Node and Interface name an end of a cable. What leaves the node there is impaired, and what comes in.
	Node, Interface string
	// Cut drops everything; Loss drops that many packets of a hundred.
	Cut  bool
	Loss int
	// Hole drops packets longer than that many bytes; 0 does not.
	Hole int
}

// Impair changes how a cable behaves, both ways.
func (l *Lab) Impair(_ context.Context, i Impairment) error {
	ns := l.nodes[i.Node]
	if ns == nil {
		return fmt.Errorf("%s has no node %q", l.network.Name, i.Node)
	}
	switch {
	case i.Cut:
		return ns.Cut(i.Interface, netns.Both)
	case i.Loss != 0:
		return ns.Loss(i.Interface, netns.Both, i.Loss)
	case i.Hole != 0:
		return ns.Hole(i.Interface, netns.Both, i.Hole)
	}
	return ns.Heal(i.Interface)
}
