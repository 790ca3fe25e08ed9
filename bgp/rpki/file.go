package rpki

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"
)

// pollEvery is how often files are looked at.
const pollEvery = 10 * time.Second

// file follows one JSON file.
// Owner: the goroutine of its source.
type file struct {
	path    string
	learned func(result, time.Time)
	// confirmed is told that a list that a person keeps is still as it was. One that a program writes is as old as its last change.
	confirmed func(time.Time)
	seen      os.FileInfo
	renewed   bool // by a program
}

// run reads the file whenever it changed, until ctx ends; again looks now. failed is told why a file was not taken; what
// it said before stays.
func (f *file) run(ctx context.Context, again <-chan struct{}, failed func(error)) {
	for {
		if err := f.look(); err != nil {
			f.seen = nil
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-time.After(pollEvery):
		}
	}
}

func (f *file) look() error {
	in, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if f.seen != nil && os.SameFile(f.seen, info) && f.seen.ModTime().Equal(info.ModTime()) && f.seen.Size() == info.Size() {
		if !f.renewed {
			f.confirmed(time.Now())
		}
		return nil
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", f.path)
	}
	list, skipped, renewed, err := parseJSON(in)
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("ends too early: %w (write it beside and rename it)", err)
		}
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.seen, f.renewed = info, renewed
	at := time.Now()
	if renewed {
		at = info.ModTime()
	}
	f.learned(result{vrps: list, skipped: skipped}, at)
	return nil
}
