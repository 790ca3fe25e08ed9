package metrics

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// passwordHash is that of webPassword, at bcrypt's lowest cost.
const (
	webPassword  = "Prometheus-May-Read7"
	passwordHash = "$2a$04$mNaYZOsk6ZAzV4mnLFw1Sux5yJjNduT/cjolAZ6KpZ6qwVHPEpSnG"
)

// webDir is a directory with a certificate for 127.0.0.1, its key, and a web configuration that names both and asks for a password.
func webDir(t testing.TB) (config string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(certificate)
	config = filepath.Join(dir, "web.yaml")
	for name, content := range map[string][]byte{
		filepath.Join(dir, "tls.crt"): certificate,
		filepath.Join(dir, "tls.key"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		config:                        []byte("tls_server_config: { cert_file: tls.crt, key_file: tls.key }\nbasic_auth_users: { prometheus: " + passwordHash + " }\n"),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config, roots
}

func TestCheckWebConfig(t *testing.T) {
	config, _ := webDir(t)
	if s, err := CheckWebConfig(config); err != nil || !s.Encrypted || !s.Authenticated {
		t.Errorf("%+v, %v", s, err)
	}
	for text, want := range map[string]WebSecurity{
		"":                                {},
		"http_server_config: {}":          {},
		"rate_limit: { interval: 100ms }": {},
		"basic_auth_users: { a: " + passwordHash + " }":                                                                                       {Authenticated: true},
		"tls_server_config: { cert_file: tls.crt, key_file: tls.key }":                                                                        {Encrypted: true},
		"tls_server_config: { cert_file: tls.crt, key_file: tls.key, client_auth_type: RequestClientCert }":                                   {Encrypted: true},
		"tls_server_config: { cert_file: tls.crt, key_file: tls.key, client_ca_file: tls.crt, client_auth_type: RequireAndVerifyClientCert }": {Encrypted: true, Authenticated: true},
	} {
		rewrite(t, config, text)
		if s, err := CheckWebConfig(config); err != nil || s != want {
			t.Errorf("%q: %+v, %v, want %+v", text, s, err, want)
		}
	}
	for text, want := range map[string]string{
		"basic_auth_users: { a: " + webPassword + " }":                                           "htpasswd",
		"basic_auth_users: { a: $9" + webPassword + " }":                                         "htpasswd",
		"basic_auth_users: " + webPassword:                                                       "line 1",
		"basic_auth_users: secret7":                                                              "line 1",
		"basic_auth_users: { a: *" + webPassword + " }":                                          "not a web configuration",
		"basic_auth_users: { a: !" + webPassword + " b }":                                        "",
		webPassword + ": 1":                                                                      "line 1",
		"basic_auth_user: { a: b }":                                                              "field basic_auth_user not found",
		"tls_server_config: { cert_file: tls.crt, key_file: absent }":                            "absent",
		"tls_server_config: { cert_file: tls.crt }":                                              "missing one of key or key_file",
		"tls_server_config: { cert_file: tls.key, key_file: tls.crt }":                           "X509KeyPair",
		"tls_server_config: { cert_file: tls.crt, key: \"" + webPassword + "\" }":                "X509KeyPair",
		"tls_server_config: { cert_file: tls.crt, key_file: tls.key, client_auth_type: NoSuch }": "ClientAuth",
		"http_server_config: { headers: { X-Frame-Options: \"" + webPassword + "\" } }":          "X-Frame-Options",
		"\t- ": "not a web configuration",
	} {
		rewrite(t, config, text)
		_, err := CheckWebConfig(config)
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), webPassword) || strings.Contains(err.Error(), "secret7") || strings.Contains(err.Error(), "$") {
			t.Errorf("%s: the error quotes it: %v", text, err)
		}
	}
	if _, err := CheckWebConfig(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// logBuffer is where several goroutines log to.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestExposed: a private key that every user of the machine may read is named.
func TestExposed(t *testing.T) {
	config, _ := webDir(t)
	key := filepath.Join(filepath.Dir(config), "tls.key")
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	inline := "tls_server_config:\n  cert_file: tls.crt\n  key: |\n    " + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n    ") + "\n"
	for _, c := range []struct {
		name, text   string
		keyMode, web os.FileMode
		want         string
	}{
		{"a file of the owner", "tls_server_config: { cert_file: tls.crt, key_file: tls.key }", 0o600, 0o644, ""},
		{"a file of a group", "tls_server_config: { cert_file: tls.crt, key_file: tls.key }", 0o640, 0o644, ""},
		{"a file of everybody", "tls_server_config: { cert_file: tls.crt, key_file: tls.key }", 0o644, 0o600, key},
		{"by its whole path", "tls_server_config: { cert_file: tls.crt, key_file: " + key + " }", 0o604, 0o600, key},
		{"in the file", inline, 0o600, 0o644, config},
		{"in the file, hidden", inline, 0o644, 0o600, ""},
		{"no TLS", "http_server_config: {}", 0o644, 0o644, ""},
	} {
		rewrite(t, config, c.text)
		for file, mode := range map[string]os.FileMode{key: c.keyMode, config: c.web} {
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := CheckWebConfig(config); err != nil || s.Exposed != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, s.Exposed, err, c.want)
		}
	}
}

// A gateway with a web configuration serves over TLS, over HTTP/1.1 and 2, and only those who know the password. A file that turns bad
// serves nobody, tells so once, and needs no restart when it is mended.
func TestWebConfig(t *testing.T) {
	config, roots := webDir(t)
	var logged logBuffer
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := NewServer(ServerOptions{Listen: "127.0.0.1:0", WebConfig: config, Handler: handler(t, gateway()), Log: log})
	addr := serve(t, s)

	client := func(http2 bool) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: http2}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	scrape := func(c *http.Client, password string) (status, major int, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+addr+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			req.SetBasicAuth("prometheus", password)
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, 0, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.ProtoMajor, string(b)
	}
	for _, h2 := range []bool{false, true} {
		c := client(h2)
		if status, major, body := scrape(c, webPassword); status != 200 || !strings.Contains(body, "sitewire_tunnel_up") || (major == 2) != h2 {
			t.Errorf("HTTP/2 %v: status %d, HTTP/%d", h2, status, major)
		}
		for _, wrong := range []string{"", "guess"} {
			if status, _, body := scrape(c, wrong); status != http.StatusUnauthorized || strings.Contains(body, "sitewire_") {
				t.Errorf("password %q: status %d", wrong, status)
			}
		}
	}
	if resp, err := http.Get("http://" + addr + "/metrics"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("served without TLS")
		}
	}

	c := client(false)
	scrape(c, webPassword) // a connection that is there when the file goes bad
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, config, "basic_auth_users: secret7")
	for range 3 {
		if status, _, body := scrape(c, webPassword); status != http.StatusInternalServerError || strings.Contains(body, "sitewire_") {
			t.Errorf("bad file: status %d", status)
		}
	}
	if status, _, _ := scrape(client(false), webPassword); status != 0 {
		t.Errorf("bad file, new connection: status %d", status)
	}
	rewrite(t, config, string(good))
	if status, _, _ := scrape(client(true), webPassword); status != 200 {
		t.Errorf("mended file: status %d", status)
	}
	text := logged.String()
	if n := strings.Count(text, "metrics refused"); n != 1 {
		t.Errorf("the bad file was told %d times:\n%s", n, text)
	}
	if n := strings.Count(text, "level=INFO"); n != 1 || !strings.Contains(text, "metrics served") {
		t.Errorf("%d lines at Info, want one:\n%s", n, text)
	}
	for _, secret := range []string{webPassword, passwordHash, "secret7"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log tells %q:\n%s", secret, text)
		}
	}
}

// A web configuration that cannot be used when the server starts is tried again, and nothing is served without it meanwhile.
func TestWebConfigRetried(t *testing.T) {
	config, roots := webDir(t)
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, config, "nonsense: 1")
	mend := func() { rewrite(t, config, string(good)) }
	s := NewServer(ServerOptions{
		Listen: "127.0.0.1:0", WebConfig: config, Handler: handler(t, gateway()), Log: slog.New(onRecord{slog.DiscardHandler, mend}),
	})
	s.retry = 10 * time.Millisecond
	addr := serve(t, s)
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
