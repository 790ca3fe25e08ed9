package gateway

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sitewire/bgp"
)

func TestSessionLog(t *testing.T) {
	var out bytes.Buffer
	l := &sessionLog{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	s := bgp.Session{Name: "nyc", ASN: 65001, Address: netip.MustParseAddr("fe80::2%wg-nyc"), RemoteRouterID: netip.MustParseAddr("192.0.2.1"), State: bgp.Active}
	step := func(f func(), want ...string) {
		t.Helper()
		out.Reset()
		f()
		l.see([]bgp.Session{s})
		if got := strings.Split(strings.TrimSpace(out.String()), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const up = `level=INFO msg="session established" neighbour=nyc asn=65001 address=fe80::2%wg-nyc router_id=192.0.2.1`
	step(func() {})
	step(func() { s.State, s.Establishments, s.EstablishedAt = bgp.Established, 1, at(100) }, up)
	step(func() {})
	step(func() { s.Warnings = []string{"limit near"} }, `level=WARN msg="session: limit near" neighbour=nyc`)
	step(func() {})
	step(func() { s.State, s.LastDown, s.LastError = bgp.Idle, at(160), "hold timer expired" },
		`level=INFO msg="session ended" neighbour=nyc reason="hold timer expired" lasted=1m0s`)
	step(func() { s.State, s.Establishments, s.EstablishedAt = bgp.Established, 2, at(170) }, up)
	// Down and up between two looks.
	step(func() { s.Establishments, s.EstablishedAt, s.LastDown = 3, at(190), at(180) },
		`level=INFO msg="session ended" neighbour=nyc reason="hold timer expired" lasted=10s`, up)
}
