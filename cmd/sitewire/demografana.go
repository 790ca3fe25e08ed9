package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"text/template"
)

// grafanaFiles configure a Grafana that only the demo uses: everybody may look, nobody logs in, nothing is fetched from outside, and all
// that it writes is in the demo's directory. Its database has no password worth one.
var grafanaFiles = map[string]*template.Template{
	"grafana.ini": template.Must(template.New("grafana.ini").Parse(`[paths]
data = {{.State}}/data
logs = {{.State}}/logs
plugins = {{.State}}/plugins
provisioning = {{.State}}/provisioning
[server]
http_addr = {{.Host}}
http_port = {{.Port}}
root_url = {{.URL}}
[log]
mode = console
level = warn
[analytics]
reporting_enabled = false
check_for_updates = false
check_for_plugin_updates = false
[auth]
disable_login_form = true
[auth.anonymous]
enabled = true
org_role = Viewer
[dashboards]
default_home_dashboard_path = {{.Dashboards}}/sitewire-overview.json
`)),
	"provisioning/datasources/prometheus.yaml": template.Must(template.New("datasources").Parse(`apiVersion: 1
datasources:
  - name: Prometheus
    type: prometheus
    access: proxy
    url: http://{{.Prometheus}}
    isDefault: true
    jsonData: { timeInterval: 1s }
`)),
	"provisioning/dashboards/sitewire.yaml": template.Must(template.New("dashboards").Parse(`apiVersion: 1
providers:
  - name: sitewire
    type: file
    folder: sitewire
    disableDeletion: true
    allowUiUpdates: false
    options: { path: {{.Dashboards}} }
`)),
}

// startGrafana starts Grafana beside Prometheus, with the dashboards. outside is the URL that a browser will use.
func (l *demoLab) startGrafana(outside string) error {
	o := l.observer
	state := filepath.Join(o.ns.StateDir(), demoGrafana)
	data := struct{ State, Dashboards, Host, Port, URL, Prometheus string }{
		state, filepath.Join(o.dir, "grafana"), grafanaAddress.Addr().String(), portText(grafanaAddress), outside, prometheusAddress.String(),
	}
	for name, t := range grafanaFiles {
		var b bytes.Buffer
		if err := t.Execute(&b, data); err != nil {
			return err
		}
		file := filepath.Join(state, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	args := []string{"--config=" + filepath.Join(state, "grafana.ini")}
	// Grafana's own files; a Grafana elsewhere finds them beside its program.
	const home = "/usr/share/grafana"
	if _, err := os.Stat(filepath.Join(home, "conf", "defaults.ini")); err == nil {
		args = append(args, "--homepath="+home)
	}
	cmd := o.ns.Command(context.Background(), "grafana-server", args...)
	p, err := l.launch(demoGrafana, cmd, filepath.Join(o.ns.StateDir(), "grafana.log"))
	if err != nil {
		return err
	}
	p.extra = true // it is somebody else's installation, and may not like ours
	o.grafana = p
	return nil
}
