package guest

import (
	"testing"
	"time"
)

// What runs in guests: tests that skip on a machine whose kernel lacks something, under names that begin with TestKernel, and
// benchmarks whose figures docs/performance.md quotes. None may skip there.
var (
	underBookworm = []Binary{
		{Package: "sitewire/topologies/netns", Run: "^TestKernel"},
		{Package: "sitewire/gateway/wg/kernel", Run: "^TestKernel", Bench: "^Benchmark(BesideWgctrl|Poll)$"},
		{Package: "sitewire/gateway/host", Run: "^TestKernel"},
		{Package: "sitewire/cmd/sitewire/e2e", Run: "^TestKernel", Bench: "^BenchmarkKernel(Throughput|Devices)$", Timeout: 12 * time.Minute},
	}
	// underNewest is what differs on kernels that remove single allowed-IPs.
	underNewest = []Binary{
		{Package: "sitewire/gateway/wg/kernel", Run: "^TestKernel", Bench: "^BenchmarkBesideWgctrl$"},
	}
)

// TestGuest runs them under Debian's kernel, or the one that SITEWIRE_GUEST_KERNEL names.
func TestGuest(t *testing.T) { runAll(t, "", underBookworm) }

// TestGuestNewest runs them under the newest kernel that Debian packages.
func TestGuestNewest(t *testing.T) { runAll(t, Newest, underNewest) }

// runAll runs the tests with sitewire itself as /usr/bin/sitewire.
func runAll(t *testing.T, kernel string, list []Binary) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	var tests []Binary
	for _, b := range list {
		b.Env = append([]string{"SITEWIRE_REQUIRE=namespaces,tun,link,program", "SITEWIRE_TEST_PROGRAM=/usr/bin/sitewire"}, b.Env...)
		b.Timeout = max(b.Timeout, 5*time.Minute)
		b.Args = append([]string{"-test.benchtime=1x"}, b.Args...)
		tests = append(tests, b)
	}
	Run(t, Options{Kernel: kernel, Tests: tests, Commands: map[string]string{"/usr/bin/sitewire": "sitewire/cmd/sitewire"}})
}
