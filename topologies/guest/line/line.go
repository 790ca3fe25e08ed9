// Package line is the language between a guest's init and the rig that booted it.
//
// Job: the plan that the rig puts into the guest's file system, and the records that the guest writes to its second serial port.
// Inputs, outputs: JSON, one record on a line; output of tests is base64 in it, so that no byte of it can be taken for anything else.
// Invariants: records are numbered from 1 without gaps, and the last one says so. A line that is lost or damaged is seen.
package line

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// PlanFile is where the init finds its Plan.
const PlanFile = "/plan.json"

// Plan is what a guest is to do.
type Plan struct {
	// Modules are paths of kernel modules, in the order in which to load them.
	Modules []string
	Runs    []Run
}

// Run is one execution of a test binary.
type Run struct {
	// Program is its path in the guest, Dir its working directory.
	Program, Dir string
	// Pattern selects tests as -test.run does, Bench selects benchmarks as -test.bench does. Empty is none.
	Pattern, Bench string
	// Args follow the flags that the init makes of the fields above.
	Args []string
	// Env is added to the environment.
	Env []string
	// Timeout ends the tests. The process is killed some time after it.
	Timeout time.Duration
}

// Kind says what a Record is about.
type Kind string

// The kinds of records, in the order in which they come.
const (
	Hello  Kind = "hello"  // Text is the kernel's release
	Tests  Kind = "tests"  // run Run will run the tests and benchmarks Tests
	Output Kind = "output" // run Run wrote Data
	End    Kind = "end"    // run Run has ended; Text is why if that was not exit code 0 or 1, Exit the code
	Fault  Kind = "fault"  // the init cannot go on because of Text
	Bye    Kind = "bye"    // the last record
)

// Record is one line.
type Record struct {
	N     int
	Kind  Kind
	Run   int      `json:",omitempty"`
	Text  string   `json:",omitempty"`
	Tests []string `json:",omitempty"`
	Data  []byte   `json:",omitempty"`
	Exit  int      `json:",omitempty"`
}

// Chunk is the most data that one record carries.
const Chunk = 8 << 10

// Writer numbers records and writes them. It may be used by several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
	n  int
}

// NewWriter returns a Writer whose first record has number 1.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes the record with the next number.
func (w *Writer) Write(r Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	r.N = w.n
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.N, err)
	}
	if _, err := w.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write record %d: %w", r.N, err)
	}
	return nil
}

// Reader reads records and holds them to their numbers.
type Reader struct {
	s     *bufio.Scanner
	n     int
	left  int64
	ended bool
}

// NewReader returns a Reader that refuses to read more than limit bytes.
func NewReader(r io.Reader, limit int64) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16*Chunk)
	return &Reader{s: s, left: limit}
}

// Read returns the next record. It returns io.EOF after Bye, and another error where the lines end before it, a number is missing, a line
// is damaged or there are too many.
func (r *Reader) Read() (Record, error) {
	if r.ended {
		return Record{}, io.EOF
	}
	if !r.s.Scan() {
		err := r.s.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return Record{}, fmt.Errorf("the guest's lines end after record %d: %w", r.n, err)
	}
	if r.left -= int64(len(r.s.Bytes())); r.left < 0 {
		return Record{}, errors.New("the guest writes more than it may: a test that logs without end?")
	}
	var rec Record
	if err := json.Unmarshal(r.s.Bytes(), &rec); err != nil {
		return Record{}, fmt.Errorf("the line after record %d is damaged: %w: %.80q", r.n, err, r.s.Text())
	}
	if rec.N != r.n+1 {
		return Record{}, fmt.Errorf("record %d follows record %d: lines were lost", rec.N, r.n)
	}
	r.n = rec.N
	r.ended = rec.Kind == Bye
	return rec, nil
}
