package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"sitewire/topologies/guest/line"
)

// resultsLimit is how much one guest may write.
const resultsLimit = 64 << 20

// report turns a guest's records into subtests.
type report struct {
	lines *line.Reader
	// why explains, once the lines have ended too early, what became of the guest.
	why func() string
	// ready is called when the guest is up.
	ready func(release string)

	broken error // nothing more can be read
}

func newReport(r io.Reader) *report {
	return &report{lines: line.NewReader(r, resultsLimit), why: func() string { return "" }, ready: func(string) {}}
}

// read returns the next record if it is of one of the kinds. Anything else ends the report: the first caller to see it gets the reason.
func (r *report) read(kinds ...line.Kind) (line.Record, error) {
	if r.broken != nil {
		return line.Record{}, errors.New("the guest was lost before")
	}
	rec, err := r.lines.Read()
	if err == nil {
		if slices.Contains(kinds, rec.Kind) {
			return rec, nil
		}
		err = fmt.Errorf("the guest says %q where %v was due: %s", rec.Kind, kinds, rec.Text)
		if rec.Kind == line.Fault {
			err = fmt.Errorf("the guest's init cannot go on: %s", rec.Text)
		}
	}
	r.broken = err
	if why := r.why(); why != "" {
		err = fmt.Errorf("%w\n%s", err, why)
	}
	return line.Record{}, err
}

// all reports every run.
func (r *report) all(t *testing.T, tests []Binary) {
	t.Helper()
	hello, err := r.read(line.Hello)
	if err != nil {
		t.Fatal(err)
	}
	r.ready(hello.Text)
	for i, b := range tests {
		t.Run(label(b.Package), func(t *testing.T) {
			if err := r.run(t, i, b); err != nil {
				t.Error(err)
			}
		})
	}
	if r.broken == nil {
		if _, err := r.read(line.Bye); err != nil {
			t.Error(err)
		}
	}
}

// run reports one run: each test as a subtest of t as soon as it has ended, and what belongs to no test in t's own log.
func (r *report) run(t *testing.T, i int, b Binary) error {
	first, err := r.read(line.Tests, line.End)
	if err != nil {
		return err
	}
	if first.Kind == line.End {
		return errors.New(first.Text)
	}
	if first.Run != i || len(first.Tests) == 0 {
		return fmt.Errorf("run %d lists %d tests: -run %q -bench %q select none", first.Run, len(first.Tests), b.Run, b.Bench)
	}
	c, err := startConverter(t)
	if err != nil {
		return err
	}
	results := newResults(t, first.Tests)
	reading := r.feed(i, c)
	for e := range c.events {
		results.event(e)
	}
	end := <-reading
	return errors.Join(end, c.wait(), results.finish())
}

// feed passes the run's output to the converter. What comes back is nil if the run ended by itself.
func (r *report) feed(i int, c *converter) <-chan error {
	ended := make(chan error, 1)
	go func() {
		defer c.in.Close()
		for {
			rec, err := r.read(line.Output, line.End)
			switch {
			case err != nil:
				ended <- err
				return
			case rec.Run != i:
				ended <- fmt.Errorf("run %d speaks during run %d", rec.Run, i)
				return
			case rec.Kind == line.End:
				ended <- endError(rec)
				return
			}
			if _, err := c.in.Write(rec.Data); err != nil {
				ended <- fmt.Errorf("go tool test2json: %w", err)
				return
			}
		}
	}()
	return ended
}

// endError: with exit code 1 a test has failed and is reported as such.
func endError(rec line.Record) error {
	switch {
	case rec.Text != "":
		return errors.New(rec.Text)
	case rec.Exit != 0 && rec.Exit != 1:
		return fmt.Errorf("the test binary ended with exit code %d", rec.Exit)
	}
	return nil
}

// event is one line of test2json (see `go doc test2json`).
type event struct {
	Action, Test, Output string
	Elapsed              float64
}

// converter is a running test2json.
type converter struct {
	in     io.WriteCloser
	events <-chan event
	wait   func() error
}

func startConverter(t *testing.T) (*converter, error) {
	cmd := test2json(t.Context())
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	events := make(chan event)
	var readErr error
	go func() {
		defer close(events)
		for s := json.NewDecoder(bufio.NewReader(out)); ; {
			var e event
			if err := s.Decode(&e); err != nil {
				if !errors.Is(err, io.EOF) {
					readErr = err
				}
				_, _ = io.Copy(io.Discard, out) // so that it can end; its exit code says the rest
				return
			}
			events <- e
		}
	}()
	return &converter{in: in, events: events, wait: func() error {
		if err := errors.Join(readErr, cmd.Wait()); err != nil {
			return fmt.Errorf("go tool test2json: %w: %s", err, &stderr)
		}
		return nil
	}}, nil
}
