package nstest

import (
	"slices"
	"strings"
	"testing"

	"sitewire/topologies/netns"
)

// FragmentsCreated reads how many fragments of IPv4 packets the namespace made, as text (RFC 4293, ipSystemStatsOutFragCreates).
func FragmentsCreated(t testing.TB, ns *netns.NS) string {
	t.Helper()
	var lines [][]string
	for line := range strings.Lines(Run(t, ns, "cat", "/proc/net/snmp")) {
		if strings.HasPrefix(line, "Ip:") {
			lines = append(lines, strings.Fields(line))
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines about IP", len(lines))
	}
	i := slices.Index(lines[0], "FragCreates")
	if i < 0 {
		t.Fatalf("no FragCreates in %v", lines[0])
	}
	return lines[1][i]
}
