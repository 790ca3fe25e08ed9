package metrics

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"time"
)

// Process is what is to be told of the daemon itself. The maps must not change once handed over.
type Process struct {
	Build   Build
	Started time.Time
	// Site is the name of this site, and the site label of neighbours that are not behind a tunnel.
	Site string
	// ASN of this site, 0 without BGP, and its BGP identifier.
	ASN      uint32
	RouterID netip.Addr
	// Table is the number of the routing table that our routes are in.
	Table uint32
	// Components that are in use ("wireguard", "bgp", "rtnetlink", "api"), and whether each runs without an error.
	Components map[string]bool
	Config     Config
	// LogMessages by level, from LogCounter.Counts.
	LogMessages map[string]uint64
	// Snapshots says how old the data behind the other metrics is ("wireguard"); BGP's and the
	// routes' ("bgp", "fib") date themselves.
	Snapshots map[string]time.Time
}

// Build tells which program runs. The Go version and platform are those of the running program.
type Build struct {
	Version, Revision, Branch, Tags string
}

// Config tells which configuration is in force and how it came to be.
type Config struct {
	// LastReloadSuccessful says that the last load, at start or later, was accepted, and LastSuccess when one last was.
	LastReloadSuccessful bool
	LastSuccess          time.Time
	// Reloads and ReloadFailures by trigger, one of "start", "sighup", "api" and "file". Every load counts in Reloads,
	// and those that were refused count in both.
	Reloads, ReloadFailures map[string]uint64
	// Hash is the hexadecimal SHA-256 of the effective configuration without secrets.
	Hash string
	// RestartRequired says that a loaded change takes effect only at the next start.
	RestartRequired bool
	// PendingConfirm is when an applied configuration is rolled back unless confirmed; zero if none waits.
	PendingConfirm time.Time
}

// processMetrics is the group of the daemon itself.
type processMetrics struct {
	build, component                                   *metric
	reloadOK, reloadTime, reloads, failures            *metric
	hash, restartRequired, pendingConfirm, logMessages *metric
}

func newProcessMetrics(c *catalogue) *processMetrics {
	c.group("Process and configuration")
	return &processMetrics{
		build:           c.gauge("build_info", "Always 1; the labels tell which program runs.", "version", "revision", "branch", "goversion", "goos", "goarch", "tags"),
		component:       c.gauge("component_up", "1 while the component runs without an error.", "component"),
		reloadOK:        c.gauge("config_last_reload_successful", "1 if the last load of the configuration was accepted."),
		reloadTime:      c.gauge("config_last_reload_success_timestamp_seconds", "Unix time of the last load that was accepted."),
		reloads:         c.counter("config_reloads_total", "Loads of the configuration, accepted or refused.", "trigger"),
		failures:        c.counter("config_reload_failures_total", "Loads of the configuration that were refused.", "trigger"),
		hash:            c.gauge("config_hash", "First 48 bits of the SHA-256 of the effective configuration, secrets excluded."),
		restartRequired: c.gauge("config_restart_required", "1 if a loaded change takes effect only at the next start."),
		pendingConfirm:  c.gauge("config_pending_confirm_timestamp_seconds", "Unix time at which an unconfirmed change is rolled back; 0 if there is none."),
		logMessages:     c.counter("log_messages_total", "Messages logged.", "level"),
	}
}

func (p *processMetrics) collect(e *emitter, s *scrape) {
	b, c := s.process.Build, s.process.Config
	e.gauge(p.build, 1, b.Version, b.Revision, b.Branch, runtime.Version(), runtime.GOOS, runtime.GOARCH, b.Tags)
	for name, up := range s.process.Components {
		e.flag(p.component, up, name)
	}
	e.flag(p.reloadOK, c.LastReloadSuccessful)
	e.time(p.reloadTime, c.LastSuccess)
	e.byName(p.reloads, c.Reloads, triggers())
	e.byName(p.failures, c.ReloadFailures, triggers())
	if h, err := hash48(c.Hash); err != nil {
		e.fail(err)
	} else {
		e.gauge(p.hash, float64(h))
	}
	e.flag(p.restartRequired, c.RestartRequired)
	e.time(p.pendingConfirm, c.PendingConfirm)
	e.byName(p.logMessages, s.process.LogMessages, levels())
}

// hash48 is as much of a hexadecimal hash as a float64 holds exactly; 0 for no hash.
func hash48(hex string) (uint64, error) {
	const digits = 48 / 4
	if hex == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(hex[:min(len(hex), digits)], 16, 64)
	if err != nil {
		return 0, fmt.Errorf("configuration hash: %w", err)
	}
	return v, nil
}

// triggers of a load of the configuration.
func triggers() []string { return []string{"start", "sighup", "api", "file"} }

// levels of log messages, in the order of LogCounter.
func levels() []string { return []string{"debug", "info", "warn", "error"} }

func asn(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// address prints an address, and nothing for one that is not known.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
