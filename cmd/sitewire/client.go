package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"sitewire/gateway"
)

// client asks the daemon over its unix socket.
type client struct {
	socket string
	http   *http.Client
}

// newClient makes a client; it connects when it is used.
func newClient(socket string) *client {
	var d net.Dialer
	return &client{socket: socket, http: &http.Client{
		Timeout: time.Minute, // a reload waits for devices
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}}
}

// maxAnswer bounds what is read of one answer: a table of a million routes fits.
const maxAnswer = 1 << 30

// refused is an answer of the daemon that is not 2xx.
type refused struct {
	status  int
	message string
}

func (e *refused) Error() string { return e.message }

// get returns the body of GET path.
func (c *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, query)
}

// post returns the body of POST path.
func (c *client) post(ctx context.Context, path string, query url.Values) ([]byte, error) {
	return c.do(ctx, http.MethodPost, path, query)
}

func (c *client) do(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	u := url.URL{Scheme: "http", Host: "sitewire", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 != 2 {
		var e gateway.APIError
		if json.Unmarshal(body, &e) != nil || e.Error == "" {
			e.Error = fmt.Sprintf("the daemon answered %s to %s %s: it may be of another version (see `sitewire version`)", resp.Status, method, path)
		}
		return nil, &refused{resp.StatusCode, e.Error}
	}
	return body, nil
}

// unreachable says what to do about a daemon that does not answer.
func (c *client) unreachable(err error) error {
	var what error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		what = fmt.Errorf("no gateway is running here: there is no socket %s\n"+
			"start one (systemctl start sitewire, or sitewire run), or name its socket with --socket or %s", c.socket, socketEnv)
	case errors.Is(err, syscall.ECONNREFUSED):
		what = fmt.Errorf("nobody answers on %s: the gateway has ended without removing it\n"+
			"its last words: journalctl -u sitewire -e; start it again with systemctl start sitewire, or sitewire run", c.socket)
	case errors.Is(err, fs.ErrPermission):
		what = fmt.Errorf("%s may not be opened by this user: run the command as root, or as the user that the gateway runs as", c.socket)
	default:
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		what = fmt.Errorf("the gateway on %s does not answer: %w", c.socket, err)
	}
	return withCode(exitUnreachable, what)
}

// decode reads an answer; one that cannot be read comes from another version.
func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the daemon's answer is of another version than this program (see `sitewire version`): %w", err)
	}
	return nil
}

// fetch gets an answer and decodes it; raw is what the daemon sent.
func fetch[T any](ctx context.Context, c *client, path string, query url.Values) (v T, raw []byte, err error) {
	raw, err = c.get(ctx, path, query)
	if err == nil {
		err = decode(raw, &v)
	}
	return v, raw, err
}

// printJSON passes an answer on as it came, indented.
func printJSON(w io.Writer, raw []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(raw), "", "  "); err != nil {
		return fmt.Errorf("the daemon's answer is not JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// printSome prints an answer with only some elements of its list, in the API's shape.
func printSome(w io.Writer, raw []byte, list string, indices ...int) error {
	var fields map[string]json.RawMessage
	if err := decode(raw, &fields); err != nil {
		return err
	}
	var all []json.RawMessage
	if err := decode(fields[list], &all); err != nil {
		return err
	}
	some := make([]json.RawMessage, 0, len(indices))
	for _, i := range indices {
		some = append(some, all[i])
	}
	var err error
	if fields[list], err = json.Marshal(some); err != nil {
		return err
	}
	if raw, err = json.Marshal(fields); err != nil {
		return err
	}
	return printJSON(w, raw)
}
