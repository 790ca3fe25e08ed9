package config

import (
	"slices"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	base := read(t, "testdata/good/hub.yaml")
	before := good(t, "hub.yaml")
	for _, tt := range []struct {
		old, new string
		want     []string
	}{
		{"", "", nil},
		{"endpoint: 198.51.100.2:51820", "endpoint: 198.51.100.3:51820", []string{"peer branch-2: endpoint 198.51.100.2:51820 -> 198.51.100.3:51820"}},
		{"    pin_endpoint: true\n", "", []string{"peer branch-2: pin_endpoint true -> false"}},
		{"branch-2.psk", "private.key", []string{"peer branch-2: preshared_key changed"}},
		{"    preshared_key: ${file:/etc/sitewire/branch-2.psk}\n", "", []string{"peer branch-2: preshared_key removed"}},
		{"cred:core-a", "env:SITE", []string{"neighbour core-a: password changed"}},
		{"kiosk:", "stand:", []string{"peer kiosk: removed", "peer stand: added"}},
		{"announce: [10.0.0.0/16]", "announce: [10.1.0.0/16]", []string{"announce 10.0.0.0/16: removed", "announce 10.1.0.0/16: added"}},
		{"max_prefixes_ipv4: 10", "max_prefixes_ipv4: 11", []string{"policy site: max_prefixes_ipv4 10 -> 11"}},
		{"_64666_", "_64667_", []string{`policy site: import.2 {"name":"import-2","match":{"as_path":"_64666_"},"action":"reject"} -> {"name":"import-2","match":{"as_path":"_64667_"},"action":"reject"}`}},
		{"hold_time: 9s", "hold_time: 12s", []string{"bgp.hold_time 9s -> 12s", "bgp.keepalive 3s -> 4s",
			"neighbour core-a: hold_time 9s -> 12s", "neighbour core-a: keepalive 3s -> 4s",
			"peer branch-1: bgp.hold_time 9s -> 12s", "peer branch-1: bgp.keepalive 3s -> 4s",
			"peer branch-2: bgp.hold_time 9s -> 12s", "peer branch-2: bgp.keepalive 3s -> 4s",
			"peer partner: bgp.hold_time 9s -> 12s", "peer partner: bgp.keepalive 3s -> 4s"}},
		{"bgp: {", "bgp: { graceful_restart: false,", []string{"bgp.graceful_restart true -> false"}},
		{"# A hub", "# The hub", nil},
	} {
		after, err := load(t, strings.Replace(base, tt.old, tt.new, 1))
		if err != nil {
			t.Errorf("%q: %v", tt.new, err)
			continue
		}
		var got []string
		for _, c := range Diff(before, after) {
			got = append(got, c.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q -> %q:\n%s", tt.old, tt.new, strings.Join(got, "\n"))
		}
		secret := strings.Contains(strings.Join(tt.want, ""), "changed")
		if same := before.Hash() == after.Hash(); same != (len(tt.want) == 0 || secret) {
			t.Errorf("%q -> %q: equal hashes: %v", tt.old, tt.new, same)
		}
	}
	if h := before.Hash(); h == 0 || h >= 1<<48 || len(before.HashString()) != 12 {
		t.Errorf("hash %x", h)
	}
	all := Diff(nil, before)
	if i := slices.IndexFunc(all, func(c Change) bool { return c.String() == "peer kiosk: added" }); i < 0 {
		t.Errorf("from nothing: %v", all)
	}
}

// TestSplitFilesAreEqual says that it does not matter in which file a peer stands.
func TestSplitFilesAreEqual(t *testing.T) {
	text := read(t, "testdata/good/branch.yaml")
	i := strings.Index(text, "  hub-b:")
	whole, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	split, err := load(t, text[:i], "peers:\n"+text[i:])
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(whole, split); d != nil || whole.Hash() != split.Hash() {
		t.Errorf("differences: %v", d)
	}
}
