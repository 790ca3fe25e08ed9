package guest

import (
	"testing"
	"time"
)

// inGuest is what runs in the guest: the tests of this list skip on a machine whose kernel has no WireGuard, and here they must run.
var inGuest = []Binary{
	{Package: "sitewire/topologies/netns", Run: "^TestKernel"},
	{Package: "sitewire/gateway/wg/kernel", Run: "^TestKernel"},
}

// TestGuest runs inGuest under Debian's kernel, with sitewire itself as /usr/bin/sitewire.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	var tests []Binary
	for _, b := range inGuest {
		b.Env = append([]string{"SITEWIRE_REQUIRE=namespaces,tun,link,program", "SITEWIRE_TEST_PROGRAM=/usr/bin/sitewire"}, b.Env...)
		b.Timeout = max(b.Timeout, 3*time.Minute)
		tests = append(tests, b)
	}
	Run(t, Options{Tests: tests, Commands: map[string]string{"/usr/bin/sitewire": "sitewire/cmd/sitewire"}})
}
