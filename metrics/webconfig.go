package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/exporter-toolkit/web"
)

// WebSecurity is what a web configuration file gives its readers and asks of them.
type WebSecurity struct {
	Encrypted     bool // TLS
	Authenticated bool // a password, or a client's certificate that is verified
	// Exposed is the file with the private key of TLS if every user of the machine may read it.
	Exposed string
}

// CheckWebConfig reads a web configuration file (the format of prometheus/exporter-toolkit) and the certificates that it names, as Server
// will. The error says what to mend, and quotes nothing that could be a password or a key.
func CheckWebConfig(path string) (WebSecurity, error) {
	if err := web.Validate(path); err != nil {
		return WebSecurity{}, webError(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return WebSecurity{}, webError(err)
	}
	var file struct {
		TLS struct {
			Cert       string `yaml:"cert"`
			CertFile   string `yaml:"cert_file"`
			Key        string `yaml:"key"`
			KeyFile    string `yaml:"key_file"`
			ClientAuth string `yaml:"client_auth_type"`
		} `yaml:"tls_server_config"`
		Users map[string]string `yaml:"basic_auth_users"`
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		return WebSecurity{}, errors.New("not readable as YAML 1.2: write it more plainly, with every value in quotes") // the first reader knows YAML 1.1
	}
	keyFile := path
	if k := file.TLS.KeyFile; k != "" {
		if keyFile = k; !filepath.IsAbs(k) {
			keyFile = filepath.Join(filepath.Dir(path), k)
		}
	} else if file.TLS.Key == "" {
		keyFile = ""
	}
	if fi, err := os.Stat(keyFile); err != nil || fi.Mode().Perm()&0o004 == 0 {
		keyFile = "" // if there is none, Validate has said so
	}
	return WebSecurity{
		Exposed:       keyFile,
		Encrypted:     file.TLS.Cert != "" || file.TLS.CertFile != "",
		Authenticated: len(file.Users) > 0 || file.TLS.ClientAuth == "RequireAndVerifyClientCert",
	}, nil
}

var (
	// yamlTrouble are the parts of a YAML error that tell nothing of the file's values: line numbers and names of unknown keys.
	yamlTrouble = regexp.MustCompile(`line [0-9]+|field [a-z_]{1,40} not found`)
	quoted      = regexp.MustCompile("(?s)`[^`]*`|\"[^\"]*\"|'[^']*'")
)

// webError is an error of the toolkit without what it quotes from the file.
func webError(err error) error {
	text := err.Error()
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path // a name and a reason
	}
	switch {
	case strings.Contains(text, "bcrypt"), strings.Contains(text, "strconv."):
		return errors.New("basic_auth_users: a password is not a bcrypt hash; make one with htpasswd -nBC 10 NAME")
	case strings.HasPrefix(text, "yaml:"):
		if found := yamlTrouble.FindAllString(text, -1); len(found) > 0 {
			return fmt.Errorf("not a web configuration: %s", strings.Join(found, ", "))
		}
		return errors.New("not a web configuration")
	}
	return errors.New(quoted.ReplaceAllString(text, "…"))
}

// webLog is the handler behind the toolkit's logger. What it tells at Info is no change of state: Server has told it. A file that turned
// bad is an error of ours, told once a minute and not for each scrape, and without what it quotes.
type webLog struct {
	slog.Handler
	mu   *sync.Mutex
	last *time.Time
}

func newWebLog(h slog.Handler) webLog { return webLog{h, new(sync.Mutex), new(time.Time)} }

func (l webLog) Enabled(ctx context.Context, level slog.Level) bool {
	if level < slog.LevelWarn {
		level = slog.LevelDebug
	}
	return l.Handler.Enabled(ctx, level)
}

func (l webLog) Handle(ctx context.Context, r slog.Record) error {
	const pause = time.Minute
	out := slog.NewRecord(r.Time, slog.LevelDebug, r.Message, r.PC)
	if r.Level >= slog.LevelWarn {
		l.mu.Lock()
		early := r.Time.Sub(*l.last) < pause
		if !early {
			*l.last = r.Time
		}
		l.mu.Unlock()
		if early {
			return nil
		}
		out = slog.NewRecord(r.Time, r.Level, "metrics refused: the web configuration cannot be used, `sitewire check` says why", r.PC)
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			a = slog.Any("error", webError(errors.New(a.Value.String())))
		}
		out.AddAttrs(a)
		return true
	})
	return l.Handler.Handle(ctx, out)
}

// handshakeLog hears what net/http says of strangers: no news, and sometimes a quotation from the file.
type handshakeLog struct{ log *slog.Logger }

func (l handshakeLog) Write(b []byte) (int, error) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		text := strings.TrimSpace(string(b))
		if before, after, ok := strings.Cut(text, "yaml:"); ok {
			text = before + webError(errors.New("yaml:"+after)).Error()
		}
		l.log.Debug(quoted.ReplaceAllString(text, "…"))
	}
	return len(b), nil
}
