package guest

import (
	"os"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns/nstest"
)

// TestDyingGuest boots a guest in which one test never ends, the next brings the kernel down and a third would come after it. Each of
// them must be reported as failed, with the cause. It is three programs in one: the test, a child of it that runs the guest and fails,
// and what runs in the guest.
func TestDyingGuest(t *testing.T) {
	const hang, crash = "hang", "crash"
	switch os.Getenv(caseEnv) {
	case hang:
		select {}
	case crash:
		if os.Getenv("SITEWIRE_GUEST") == "" {
			t.Fatal("this is no guest: its kernel is left alone")
		}
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0o200); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
	case "host":
		const here = "sitewire/topologies/guest"
		Run(t, Options{Tests: []Binary{
			{Package: here, Run: "^TestDyingGuest$", Env: []string{caseEnv + "=" + hang}, Timeout: 2 * time.Second},
			{Package: here, Run: "^TestDyingGuest$", Env: []string{caseEnv + "=" + crash}},
			{Package: here, Run: "^TestSelected$"},
		}})
	default:
		if testing.Short() {
			t.Skip("boots a guest")
		}
		nstest.NeedOutside(t, QEMU, Kernel(""))
		passed, out := watch(t, "TestDyingGuest", "host")
		if passed {
			t.Error("it passed")
		}
		for _, want := range []string{
			"test timed out after 2s", "--- FAIL: TestDyingGuest/topologies.guest/TestDyingGuest ", // hangs
			"Kernel panic", "--- FAIL: TestDyingGuest/topologies.guest#01/TestDyingGuest ", // crashes
			"the guest was lost before", "--- FAIL: TestDyingGuest/topologies.guest#02 ", // never came to be
		} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not say %q", want)
			}
		}
		if t.Failed() {
			t.Log(out)
		}
	}
}
