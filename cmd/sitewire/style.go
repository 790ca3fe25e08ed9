package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// style is how a piece of text looks on a terminal. Meaning is never in the colour alone.
type style string

// Styles, as SGR parameters (ECMA-48 section 8.3.117).
const (
	plain  style = ""
	bold   style = "1"
	good   style = "32" // green
	warn   style = "33" // yellow
	bad    style = "31" // red
	faint  style = "2"
	header style = "1"
)

// painter colours text, or leaves it alone.
type painter bool

func (p painter) paint(s style, text string) string {
	if !p || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// painter follows --color and NO_COLOR (no-color.org).
func (a *app) painter() (painter, error) {
	switch a.color {
	case "always":
		return true, nil
	case "never":
		return false, nil
	case "auto":
		return painter(a.env("NO_COLOR") == "" && a.env("TERM") != "dumb" && isTerminal(a.stdout)), nil
	}
	return false, fmt.Errorf("--color %q: want auto, always or never", a.color)
}

// paint is painter after execute has checked the flag.
func (a *app) paint() painter {
	p, _ := a.painter()
	return p
}

// isTerminal tells whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// errWriter keeps the first error of many writes, so that renderers need not look at each.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) printf(format string, args ...any) {
	if e.err == nil {
		_, e.err = fmt.Fprintf(e.w, format, args...)
	}
}
