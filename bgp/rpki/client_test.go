package rpki

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/bgp/policy"
)

// cache is the other end of the protocol, with as many faults as a test wants.
type cache struct {
	t       *testing.T
	mu      sync.Mutex
	version uint8
	hangUp  bool // instead of saying that it does not speak our version
	refuse  bool // connections
	session uint16
	serial  uint32
	list    []VRP
	// deltas by the serial that they start from; a serial without is answered with Cache Reset.
	deltas  map[uint32][]pdu
	timers  [3]uint32
	queries []string
	conns   []net.Conn
	raw     []byte // instead of any answer
}

func (c *cache) dial(context.Context, string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	c.conns = append(c.conns, far)
	go c.serve(far)
	return near, nil
}

func (c *cache) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		q, err := readPDU(r)
		if err != nil {
			return
		}
		out := c.answer(q)
		if out == nil {
			return
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

func (c *cache) answer(q pdu) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := map[uint8]string{serialQuery: "serial", resetQuery: "reset", errorReport: "error"}[q.kind]
	c.queries = append(c.queries, name+string('0'+q.version))
	switch {
	case c.raw != nil:
		return c.raw
	case q.version != c.version && c.hangUp, q.kind == errorReport:
		return nil
	case q.version != c.version:
		p := pdu{version: c.version, kind: errorReport, session: errUnsupportedVersion, text: "version 0 only"}
		return p.append(nil)
	}
	var b []byte
	add := func(p pdu) { p.version = c.version; b = p.append(b) }
	if q.kind == serialQuery {
		delta, ok := c.deltas[q.serial]
		if !ok || q.session != c.session {
			add(pdu{kind: cacheReset})
			return b
		}
		add(pdu{kind: cacheResponse, session: c.session})
		for _, p := range delta {
			add(p)
		}
	} else {
		add(pdu{kind: cacheResponse, session: c.session})
		for _, v := range c.list {
			add(prefixPDU(v, true))
		}
	}
	add(pdu{kind: endOfData, session: c.session, serial: c.serial, refresh: c.timers[0], retry: c.timers[1], expire: c.timers[2]})
	return b
}

// notify tells all connections that there is something new.
func (c *cache) notify() {
	c.mu.Lock()
	p := pdu{version: c.version, kind: serialNotify, session: c.session, serial: c.serial}
	conns := slices.Clone(c.conns)
	c.mu.Unlock()
	for _, conn := range conns {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write(p.append(nil))
	}
}

// stop closes everything and refuses what follows.
func (c *cache) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = true
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func (c *cache) edit(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cache) asked() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := strings.Join(c.queries, " ")
	c.queries = nil
	return s
}

func prefixPDU(v VRP, announce bool) pdu {
	p := pdu{kind: ipv4Prefix, vrp: v, announce: announce}
	if v.Prefix.Addr().Is6() {
		p.kind = ipv6Prefix
	}
	return p
}

// bubble runs a manager with one cache in a synctest bubble.
func bubble(t *testing.T, c *cache, cfg Config, test func(t *testing.T, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.t = t
		if cfg.Sources == nil {
			cfg.Sources = []Source{{Name: "c", Address: "cache:8282"}}
		}
		m := New(Options{Config: cfg, Dial: c.dial})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		test(t, m)
		cancel()
		c.stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// validity asks the default table of the published set.
func validity(t *testing.T, m *Manager, prefix string, origin uint32) string {
	t.Helper()
	v, ok := m.Snapshot().Origins.Validate(policy.DefaultTable, netip.MustParsePrefix(prefix), origin)
	if !ok {
		return "no table"
	}
	return v.String()
}

func expectValidity(t *testing.T, m *Manager, prefix string, origin uint32, want string) {
	t.Helper()
	if got := validity(t, m, prefix, origin); got != want {
		t.Errorf("%s from AS%d is %s, want %s; sources %+v", prefix, origin, got, want, m.Snapshot().Sources)
	}
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestCacheSpeaksVersion1(t *testing.T) {
	a, b := vrp(t, "10.1.0.0/16", 24, 1), vrp(t, "fd42:1::/48", 64, 2)
	c := &cache{version: version1, session: 7, serial: 5, list: []VRP{b, a, a}, timers: [3]uint32{600, 60, 7200}}
	bubble(t, c, Config{}, func(t *testing.T, m *Manager) {
		expectValidity(t, m, "10.1.0.0/16", 1, "valid")
		expectValidity(t, m, "10.1.0.0/16", 2, "invalid")
		expectValidity(t, m, "fd42:1::/48", 2, "valid")
		s := m.Snapshot().Sources[0]
		if !s.Up || s.Serial != 5 || s.Session != 7 || s.IPv4 != 1 || s.IPv6 != 1 || *s.Version != 1 || s.Table != "default" {
			t.Errorf("%+v", s)
		}
		if got := c.asked(); got != "reset1" {
			t.Errorf("asked %s", got)
		}

		// Nothing happened: asked again after the cache's refresh interval, and the same set stays.
		set := m.Snapshot().Origins
		c.edit(func() { c.deltas = map[uint32][]pdu{5: nil} })
		pass(601 * time.Second)
		if got := c.asked(); got != "serial1" || m.Snapshot().Origins != set {
			t.Errorf("asked %s, same set %v", got, m.Snapshot().Origins == set)
		}

		// A change comes with a notification, not with the next refresh.
		c.edit(func() {
			c.serial, c.deltas = 6, map[uint32][]pdu{5: {prefixPDU(a, false), prefixPDU(vrp(t, "10.1.0.0/16", 16, 2), true)}}
		})
		c.notify()
		pass(3 * time.Second)
		expectValidity(t, m, "10.1.0.0/16", 1, "invalid")
		expectValidity(t, m, "10.1.0.0/16", 2, "valid")
		expectValidity(t, m, "fd42:1::/48", 2, "valid")

		// A serial that the cache forgot leads to a reset on the same connection.
		c.asked()
		c.edit(func() { c.serial, c.deltas, c.list = 9, nil, []VRP{a} })
		c.notify()
		pass(3 * time.Second)
		if got := c.asked(); got != "serial1 reset1" {
			t.Errorf("asked %s", got)
		}
		expectValidity(t, m, "10.1.0.0/16", 1, "valid")
		expectValidity(t, m, "fd42:1::/48", 2, "not-found")

		// A change that does not fit what we have as well.
		c.edit(func() {
			c.serial, c.deltas = 10, map[uint32][]pdu{9: {prefixPDU(b, false)}}
			c.list = []VRP{b}
		})
		c.notify()
		pass(3 * time.Second)
		expectValidity(t, m, "fd42:1::/48", 2, "valid")
		if got := c.asked(); got != "serial1 reset1" {
			t.Errorf("asked %s", got)
		}
	})
}

func TestCacheSpeaksVersion0(t *testing.T) {
	for _, hangUp := range []bool{false, true} {
		c := &cache{version: version0, hangUp: hangUp, serial: 1, list: []VRP{vrp(t, "10.1.0.0/16", 24, 1)}}
		bubble(t, c, Config{}, func(t *testing.T, m *Manager) {
			expectValidity(t, m, "10.1.0.0/16", 1, "valid")
			s := m.Snapshot().Sources[0]
			if *s.Version != 0 || s.LastError != "" || s.Expires.Sub(s.Updated) != defaultExpire {
				t.Errorf("%+v", s)
			}
			if got := c.asked(); got != "reset1 reset0" {
				t.Errorf("asked %s", got)
			}
			pass(defaultRefresh + time.Second)
			if got := c.asked(); got != "serial0 reset0" {
				t.Errorf("asked %s", got)
			}
		})
	}
}

// TestCacheDies: payloads stay until they expire, and come back with the cache.
func TestCacheDies(t *testing.T) {
	c := &cache{version: version1, session: 7, serial: 5, list: []VRP{vrp(t, "10.1.0.0/16", 24, 1)}, timers: [3]uint32{3600, 60, 7200}}
	bubble(t, c, Config{Expire: 10 * time.Minute}, func(t *testing.T, m *Manager) {
		c.asked()
		c.stop()
		pass(9 * time.Minute)
		s := m.Snapshot().Sources[0]
		if s.Up || s.Expired || s.LastError == "" {
			t.Errorf("%+v", s)
		}
		expectValidity(t, m, "10.1.0.0/16", 2, "invalid")

		pass(time.Minute + time.Second)
		if s := m.Snapshot().Sources[0]; !s.Expired || s.IPv4 != 0 {
			t.Errorf("%+v", s)
		}
		expectValidity(t, m, "10.1.0.0/16", 2, "not-found")

		// Restarted, with another session: what we knew is no base.
		c.edit(func() { c.refuse, c.session, c.serial = false, 8, 1 })
		pass(lastRetry + 5*time.Second)
		expectValidity(t, m, "10.1.0.0/16", 2, "invalid")
		if got := c.asked(); got != "reset1" {
			t.Errorf("asked %s", got)
		}
		// A short outage: what we have is asked to be brought up to date, and nothing is dropped meanwhile.
		c.stop()
		c.edit(func() {
			c.refuse, c.serial, c.deltas = false, 2, map[uint32][]pdu{1: {prefixPDU(vrp(t, "10.1.0.0/16", 24, 2), true)}}
		})
		pass(5 * time.Second)
		expectValidity(t, m, "10.1.0.0/16", 2, "valid")
		if got := c.asked(); got != "serial1" {
			t.Errorf("asked %s", got)
		}
	})
}

// TestCacheTalksNonsense: it is left, kept in view, and takes nothing away.
func TestCacheTalksNonsense(t *testing.T) {
	good := &cache{version: version1, serial: 1, list: []VRP{vrp(t, "10.1.0.0/16", 24, 1)}, timers: [3]uint32{3600, 60, 7200}}
	half := pdu{version: version1, kind: cacheResponse, session: good.session}
	for name, raw := range map[string][]byte{
		"http":       []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"huge":       {1, errorReport, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"error":      new(pdu{version: version1, kind: errorReport, session: 1, text: "internal error"}).append(nil),
		"no data":    new(pdu{version: version1, kind: errorReport, session: errNoDataAvailable}).append(nil),
		"cut off":    append(half.append(nil), 1, endOfData, 0, 0, 0, 0, 0, 12),
		"withdrawal": new(prefixOf1(vrp(t, "10.1.0.0/16", 24, 1))).append(half.append(nil)),
	} {
		t.Run(name, func(t *testing.T) {
			good.raw, good.refuse, good.queries = nil, false, nil
			bubble(t, good, Config{}, func(t *testing.T, m *Manager) {
				good.edit(func() { good.raw = raw })
				for _, conn := range good.conns {
					conn.Close()
				}
				pass(5 * time.Minute)
				if s := m.Snapshot().Sources[0]; s.Up || s.LastError == "" || s.IPv4 != 1 {
					t.Errorf("%+v", s)
				}
				expectValidity(t, m, "10.1.0.0/16", 1, "valid")
				if n := len(strings.Fields(good.asked())); n > 60 {
					t.Errorf("%d queries in five minutes", n)
				}
				good.edit(func() { good.raw = nil })
				pass(2 * lastRetry)
				if s := m.Snapshot().Sources[0]; !s.Up || s.LastError != "" {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func prefixOf1(v VRP) pdu {
	p := prefixPDU(v, false)
	p.version = version1
	return p
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "roa.json")
	put := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path+"~", at, at); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
	written := time.Unix(1_790_000_000, 0)
	put(`{"metadata": {"counts": 2, "valid": 1}, "roas": [
		{"prefix": "10.2.0.0/16", "maxLength": 24, "asn": "AS2", "ta": "dn42"},
		{"prefix": "fd42:2::/48", "maxLength": 64, "asn": "2"}, {"prefix": "10.3.0.0/16", "asn": 3}, {"prefix": "broken", "asn": 3}]}`, written)
	c := &cache{version: version1, serial: 1, list: []VRP{vrp(t, "10.1.0.0/16", 24, 1)}, timers: [3]uint32{3600, 60, 7200}}
	sources := []Source{{Name: "c", Address: "cache:8282"}, {Name: "f", Path: path}, {Name: "g", Path: path, Table: "other"}}
	bubble(t, c, Config{Sources: sources}, func(t *testing.T, m *Manager) {
		pass(publishEvery) // what two sources say one after the other is published together
		expectValidity(t, m, "10.1.0.0/16", 1, "valid")
		expectValidity(t, m, "10.2.0.0/24", 2, "valid")
		expectValidity(t, m, "10.3.0.0/16", 3, "valid")
		expectValidity(t, m, "10.3.1.0/24", 3, "invalid") // without maxLength it is the prefix's own
		expectValidity(t, m, "fd42:2::/64", 2, "valid")
		if s := m.Snapshot().Sources[1]; !s.Up || s.Skipped != 1 || !s.Updated.Equal(written) {
			t.Errorf("%+v", s)
		}
		other := m.Snapshot().Origins.Table("other")
		if other.Validate(netip.MustParsePrefix("10.1.0.0/16"), 1) != policy.NotFound || other.Len() != 3 {
			t.Error("the tables are not apart")
		}

		put(`{"roas": [{"prefix": "10.2.0.0/16", "maxLength": 24, "asn": 5`, written.Add(time.Hour)) // cut off
		pass(pollEvery + publishEvery)
		expectValidity(t, m, "10.2.0.0/24", 2, "valid")
		if s := m.Snapshot().Sources[1]; s.Up || !strings.Contains(s.LastError, "ends too early") {
			t.Errorf("%+v", s)
		}
		put(`{"roas": [{"prefix": "a"}, {"prefix": "b"}, {"prefix": "10.2.0.0/16", "asn": 1}]}`, written.Add(2*time.Hour)) // mostly rubbish
		pass(pollEvery + publishEvery)
		expectValidity(t, m, "10.2.0.0/24", 2, "valid")
		put(`{"roas": [{"prefix": "10.2.0.0/16", "maxLength": 24, "asn": 5}]}`, written.Add(3*time.Hour))
		pass(pollEvery + publishEvery)
		expectValidity(t, m, "10.2.0.0/24", 2, "invalid")
		expectValidity(t, m, "10.2.0.0/24", 5, "valid")
		put(`{"roas": []}`, written.Add(4*time.Hour)) // a list of flapping prefixes is often empty
		m.Set(Config{Sources: sources})               // a reload looks at once
		pass(publishEvery)
		expectValidity(t, m, "10.2.0.0/24", 5, "not-found")

		// A source that goes takes its payloads along, and the last of a table takes the table.
		c.asked()
		m.Set(Config{Sources: []Source{{Name: "c", Address: "cache:8282"}}})
		expectValidity(t, m, "10.1.0.0/16", 1, "valid")
		if m.Snapshot().Origins.Table("other") != nil {
			t.Error("the table is still there")
		}
		m.Set(Config{})
		if m.Snapshot().Origins != nil || validity(t, m, "10.1.0.0/16", 1) != "no table" {
			t.Error("payloads without sources")
		}
		// One that comes has its table at once, empty unless the cache was that quick.
		m.Set(Config{Sources: []Source{{Name: "d", Address: "cache:8282", Table: "default"}}})
		if got := validity(t, m, "10.1.0.0/16", 1); got != "not-found" && got != "valid" {
			t.Errorf("10.1.0.0/16 from AS1 is %s right after the source came", got)
		}
		pass(publishEvery)
		expectValidity(t, m, "10.1.0.0/16", 1, "valid")
		if got := c.asked(); got != "reset1" {
			t.Errorf("asked %q: the source that stayed has lost its session, or one that came asked twice", got)
		}
	})
}

// TestCap: a cache that never ends its table is left at the limit.
func TestCap(t *testing.T) {
	if testing.Short() {
		t.Skip("two million payloads")
	}
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		defer far.Close()
		if _, err := readPDU(far); err != nil {
			return
		}
		b := (&pdu{version: version1, kind: cacheResponse}).append(nil)
		for i := 0; ; i++ {
			a := netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
			p := prefixPDU(VRP{Prefix: netip.PrefixFrom(a, 32), MaxLength: 32, ASN: 1}, true)
			p.version = version1
			if b = p.append(b); len(b) > 1<<16 {
				if _, err := far.Write(b); err != nil {
					return
				}
				b = b[:0]
			}
		}
	}()
	c := &client{version: version1, dial: func(context.Context, string) (net.Conn, error) { return near, nil }, learned: func(result) { t.Error("took it") }}
	if err := c.connect(t.Context()); !errors.Is(err, errTooMany) {
		t.Error(err)
	}
}

func FuzzReadPDU(f *testing.F) {
	for _, p := range []pdu{
		{kind: serialNotify, session: 1, serial: 2}, {kind: serialQuery, version: 1, serial: 2}, {kind: resetQuery}, {kind: cacheResponse, session: 9},
		prefixPDU(VRP{netip.MustParsePrefix("10.0.0.0/8"), 1, 24}, true), prefixPDU(VRP{netip.MustParsePrefix("fd00::/8"), 1, 64}, false),
		{kind: endOfData, serial: 3}, {kind: endOfData, version: 1, serial: 3, refresh: 1, retry: 2, expire: 3}, {kind: cacheReset},
		{kind: errorReport, session: 4, text: "no"},
	} {
		f.Add(p.append(nil))
	}
	f.Add([]byte{1, routerKey, 1, 0, 0, 0, 0, 34, 31: 0, 33: 0})
	f.Add([]byte{1, errorReport, 0, 0, 0, 0, 0, 16, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		p, err := readPDU(r)
		if err != nil {
			if !errors.Is(err, errMalformed) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return
		}
		read := data[:len(data)-r.Len()]
		if p.bad != nil || p.kind == routerKey {
			return
		}
		again, err := readPDU(bytes.NewReader(p.append(nil)))
		if err != nil || again != p {
			t.Errorf("%x reads as %+v, and that as %+v (%v)", read, p, again, err)
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`{"metadata":{},"roas":[{"prefix":"10.0.0.0/8","maxLength":24,"asn":"AS1"},{"prefix":"fd00::/8","asn":2}]}`))
	f.Add([]byte(`{"roas":[{"prefix":"10.0.0.1/8","maxLength":24,"asn":"0"},{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _, _, err := parseJSON(bytes.NewReader(data))
		if err != nil {
			return
		}
		for i, v := range list {
			if _, err := NewVRP(v.Prefix, int(v.MaxLength), v.ASN); err != nil {
				t.Error(err)
			}
			if i > 0 && compareVRPs(list[i-1], v) >= 0 {
				t.Errorf("%v before %v", list[i-1], v)
			}
		}
	})
}

// A list that a person keeps does not grow old while it is there; one that a program writes does.
func TestFileAge(t *testing.T) {
	dir := t.TempDir()
	old := time.Unix(1_000_000, 0)
	var sources []Source
	for name, metadata := range map[string]string{
		"a-byhand": "", "b-counted": `"metadata": {"counts": 1}, `, "c-dn42": `"metadata": {"generated": 1, "valid": 2}, `, "d-rpki-client": `"metadata": {"buildtime": "x"}, `,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(`{`+metadata+`"roas": [{"prefix": "10.2.0.0/16", "asn": 2}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, Source{Name: name, Path: path})
	}
	bubble(t, &cache{}, Config{Sources: sources}, func(t *testing.T, m *Manager) {
		pass(3 * time.Hour)
		for i, s := range m.Snapshot().Sources {
			age := time.Since(s.Updated)
			if byHand := i < 2; byHand && age > 2*pollEvery || !byHand && !s.Updated.Equal(old) {
				t.Errorf("%s was updated %s ago, at %s", s.Name, age, s.Updated)
			}
		}
		if err := os.Remove(filepath.Join(dir, "a-byhand")); err != nil {
			t.Fatal(err)
		}
		pass(3 * time.Hour)
		if s := m.Snapshot().Sources[0]; s.Up || time.Since(s.Updated) < 2*time.Hour {
			t.Errorf("gone: %+v", s)
		}
	})
}
