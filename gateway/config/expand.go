package config

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Options say what surrounds the files.
type Options struct {
	// LookupEnv finds environment variables for ${env:} and CREDENTIALS_DIRECTORY; nil means os.LookupEnv.
	LookupEnv func(name string) (string, bool)
	// WithoutSecrets checks a configuration on a machine that does not have its secrets: files and credentials that
	// hold keys and passwords are not read. The Config is complete but for them, and for what follows from the own
	// key; it must not be applied.
	WithoutSecrets bool
	// WebConfig checks the file of metrics.web_config: what it asks for, and what is wrong with it, without quoting a secret. Nil leaves it
	// unchecked.
	WebConfig func(path string) (WebSecurity, error)
}

// WebSecurity is what the file of metrics.web_config asks for.
type WebSecurity struct {
	Encrypted     bool // by TLS
	Authenticated bool
	// Exposed is the file with the private key of TLS if every user of the machine may read it.
	Exposed string
}

var (
	expansion = regexp.MustCompile(`\$?\$\{([^}]*)\}`)
	// errWant makes a kind say what it wants and what it got, and nothing else.
	errWant = errors.New("not valid here")
)

// notExpansion is the message for ${…} with anything else in the braces.
const notExpansion = "not an expansion"

// maxValue bounds what ${file:} and ${cred:} may bring in, in bytes.
const maxValue = 64 << 10

// expand replaces ${file:PATH}, ${cred:NAME}, ${env:NAME} and ${env:NAME:-DEFAULT}; $${ is a literal ${. It is done
// once: what comes in is not expanded again. A bare $ means itself, for the sake of passwords and AS paths.
func (d *decoder) expand(n *node, secret bool) (value string, expanded, ok bool) {
	ok = true
	value = expansion.ReplaceAllStringFunc(n.text, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		expanded = true
		v, message := d.lookup(n, m[2:len(m)-1], secret)
		if message != "" && ok {
			ok = false
			hint := ""
			if message == notExpansion {
				hint = "known: ${file:PATH}, ${cred:NAME}, ${env:NAME}, ${env:NAME:-DEFAULT}; $${ is a literal ${"
				if secret {
					m = "${…}" // what is in the braces may be the secret itself
				}
			}
			d.hintf(n, hint, "%s: %s", m, message)
		}
		return v
	})
	return value, expanded, ok
}

// lookup returns the value of one expansion, or what is wrong with it.
func (d *decoder) lookup(n *node, what string, secret bool) (value, message string) {
	scheme, name, found := strings.Cut(what, ":")
	if !found || name == "" {
		return "", notExpansion
	}
	switch scheme {
	case "env":
		name, fallback, hasFallback := strings.Cut(name, ":-")
		if v, ok := d.lookupEnv(name); ok {
			return v, ""
		}
		if hasFallback {
			return fallback, ""
		}
		return "", "the environment variable is not set, and there is no default"
	case "cred":
		if secret && d.opts.WithoutSecrets {
			return "", ""
		}
		dir, ok := d.lookupEnv("CREDENTIALS_DIRECTORY")
		if !ok {
			return "", "CREDENTIALS_DIRECTORY is not set: systemd passes credentials only to the unit that has LoadCredential="
		}
		if name != filepath.Base(name) || name == "." || name == ".." {
			return "", "a credential's name is not a path"
		}
		// systemd makes the directory and its modes; in containers they are what the runtime made them.
		return readValue(filepath.Join(dir, name), false)
	case "file":
		if secret && d.opts.WithoutSecrets {
			return "", ""
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(n.src.path), name)
		}
		return readValue(name, secret)
	}
	return "", notExpansion
}

func (d *decoder) lookupEnv(name string) (string, bool) {
	if d.opts.LookupEnv != nil {
		return d.opts.LookupEnv(name)
	}
	return os.LookupEnv(name)
}

// readValue reads a file without its final line end. With private it refuses a file that others than its owner may
// read, as ssh(1) does.
func readValue(path string, private bool) (value, message string) {
	f, err := os.Open(path)
	if err != nil {
		return "", reason(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", reason(err)
	case !info.Mode().IsRegular():
		return "", "not a regular file"
	case private && info.Mode().Perm()&0o077 != 0:
		return "", "the file of a secret must be readable by its owner only: chmod 600 " + path
	}
	b, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	switch {
	case err != nil:
		return "", reason(err)
	case len(b) > maxValue:
		return "", "the file is too large for a value"
	}
	return strings.TrimRight(string(b), "\r\n"), ""
}

// reason is an error of package os without the path, which the caller has named.
func reason(err error) string {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// inlineSecret warns of a secret that stands in the configuration itself.
func (d *decoder) inlineSecret(n *node) {
	if n.src.mode&0o077 != 0 {
		d.warnf(n, "a secret in a file that other users may read (mode %04o): use ${file:PATH} or ${cred:NAME}, or chmod 600", n.src.mode)
		return
	}
	d.warnf(n, "a secret in the configuration file: ${file:PATH} or ${cred:NAME} keeps it out of backups and tickets")
}
