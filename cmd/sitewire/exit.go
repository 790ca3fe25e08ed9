package main

import "errors"

// Exit codes. They are an interface: docs/cli.md lists them, and tests hold them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitUnreachable = 3 // no daemon answers on the socket
	exitDegraded    = 4 // status --fail, and something is wrong
	exitInvalid     = 5 // the configuration has mistakes
	exitChanges     = 7 // diff --exit-code, and a reload would change something

	// The daemon's own, from sysexits.h, so that systemd's RestartPreventExitStatus can name them.
	exitCapability = 77 // EX_NOPERM: a privilege is missing
	exitConfig     = 78 // EX_CONFIG: the configuration has mistakes
)

// codedError is an error with the exit code that it ends the program with. Quiet ones have been told already.
type codedError struct {
	code  int
	quiet bool
	error
}

func (e codedError) Unwrap() error { return e.error }

// withCode gives err an exit code; nil stays nil.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return codedError{code: code, error: err}
}

// silently ends the program with a code and without a message: what is to say has been printed as data.
func silently(code int) error {
	return codedError{code: code, quiet: true, error: errors.New("told already")}
}
