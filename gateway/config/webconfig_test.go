package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// The web configuration is found beside the file that names it, and checked by who knows its format.
func TestWebConfig(t *testing.T) {
	dir := site(t)
	main, more := filepath.Join(dir, "sitewire.yaml"), filepath.Join(dir, "conf.d", "a.yaml")
	for name, test := range map[string]struct {
		metrics, more            string
		encrypted, authenticated bool
		exposed                  string
		err                      error
		path                     string // that was looked at
		want                     string // part of the error or the warning; empty is neither
	}{
		"loopback":              {metrics: "{}"},
		"loopback, IPv6":        {metrics: `{ listen: "[::1]:9587" }`},
		"everywhere":            {metrics: `{ listen: ":9587" }`, want: "sitewire.yaml:2:20: warning: everybody who reaches :9587 may read the metrics"},
		"looks like loopback":   {metrics: `{ listen: "192.0.2.127:9587" }`, want: "listen on loopback, or set metrics.web_config"},
		"relative":              {metrics: `{ listen: ":9587", web_config: web.yaml }`, encrypted: true, authenticated: true, path: filepath.Join(dir, "web.yaml")},
		"absolute":              {metrics: `{ listen: ":9587", web_config: /x/web.yaml }`, encrypted: true, authenticated: true, path: "/x/web.yaml"},
		"in conf.d":             {metrics: "{}", more: "metrics: { web_config: web.yaml }\n", encrypted: true, path: filepath.Join(dir, "conf.d", "web.yaml")},
		"TLS without passwords": {metrics: `{ listen: ":9587", web_config: web.yaml }`, encrypted: true, path: filepath.Join(dir, "web.yaml"), want: "everybody who reaches"},
		"passwords in clear":    {metrics: `{ web_config: web.yaml }`, authenticated: true, path: filepath.Join(dir, "web.yaml"), want: "sitewire.yaml:2:24: warning: passwords for metrics cross the network in clear"},
		"off":                   {metrics: `{ listen: off, web_config: web.yaml }`, path: filepath.Join(dir, "web.yaml"), want: "metrics are off"},
		"bad":                   {metrics: `{ web_config: web.yaml }`, err: errors.New("no key_file"), path: filepath.Join(dir, "web.yaml"), want: "sitewire.yaml:2:24: " + filepath.Join(dir, "web.yaml") + ": no key_file"},
		"key for everybody":     {metrics: `{ web_config: web.yaml }`, encrypted: true, exposed: "/x/tls.key", path: filepath.Join(dir, "web.yaml"), want: "sitewire.yaml:2:24: warning: every user of this machine may read the private key of TLS: chmod 600 /x/tls.key"},
		"no value":              {metrics: `{ web_config: "" }`, want: "want a path"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, main, "site: fra\nmetrics: "+test.metrics+"\n", 0o600)
			write(t, more, test.more, 0o600)
			var looked string
			c, err := Load(main, Options{WebConfig: func(path string) (WebSecurity, error) {
				looked = path
				return WebSecurity{test.encrypted, test.authenticated, test.exposed}, test.err
			}})
			var got string
			if err != nil {
				got = err.Error()
			} else {
				if len(c.Warnings) > 0 {
					got = c.Warnings[0].String()
				}
				if c.Metrics.WebConfig != test.path {
					t.Errorf("path %s", c.Metrics.WebConfig)
				}
			}
			if looked != test.path {
				t.Errorf("looked at %q, want %q", looked, test.path)
			}
			if got = strings.ReplaceAll(got, main, "sitewire.yaml"); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
	// Without the secrets the file is not to be had either.
	write(t, main, "site: fra\nmetrics: { web_config: web.yaml }\n", 0o600)
	write(t, more, "", 0o600)
	_, err := Load(main, Options{WithoutSecrets: true, WebConfig: func(string) (WebSecurity, error) { return WebSecurity{}, errors.New("read") }})
	if err != nil {
		t.Error(err)
	}
}
