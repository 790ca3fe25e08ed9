package nstest

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"sitewire/topologies/netns"
)

func TestMain(m *testing.M) { Main(m) }

// recorder stands in for the test that needs something.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skip(args ...any) {
	r.skipped = fmt.Sprint(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func need(needs ...Requirement) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Need(r, needs...)
	}()
	<-done
	return r
}

func TestNeed(t *testing.T) {
	Need(t)
	missing := Program("gobgpd")
	missing.Check = func() error {
		return &netns.Unavailable{What: "gobgpd", Why: "not found", Fix: "apt-get install gobgpd"}
	}
	const reason = `SKIP-REASON kind=program name=gobgpd fix="apt-get install gobgpd" why="not found"`
	for _, c := range []struct {
		require string
		fails   bool
	}{
		{"", false}, {"tun,program:bird,gobgp", false}, {"program", true}, {"tun, gobgpd", true}, {"program:gobgpd", true}, {"all", true},
	} {
		t.Run(c.require, func(t *testing.T) {
			t.Setenv(requireEnv, c.require)
			r := need(missing)
			if c.fails != strings.Contains(r.failed, reason) || c.fails == (r.skipped == reason) {
				t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
			}
		})
	}
	if r := need(Program("sh")); r.skipped+r.failed != "" {
		t.Errorf("with a shell: skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestNeedSeesThatThisIsNoLab(t *testing.T) {
	Need(t)
	t.Setenv("SITEWIRE_LAB", "forged")
	t.Setenv(requireEnv, "")
	if netns.Inside() {
		t.Error("a forged token passes")
	}
	if n, err := netns.New("forged"); !errors.Is(err, netns.ErrOutside) {
		t.Errorf("New returned %v, %v", n, err)
	}
	if r := need(); !strings.HasPrefix(r.skipped, "SKIP-REASON kind=namespaces ") {
		t.Errorf("skipped %q", r.skipped)
	}
}

func TestProgramNamesThePackage(t *testing.T) {
	t.Setenv("PATH", "/nonexistent")
	err := Program("no-such-program").Check()
	u, ok := errors.AsType[*netns.Unavailable](err)
	if !ok || u.Fix != "apt-get install no-such-program" {
		t.Errorf("got %v", err)
	}
}

func TestLinkType(t *testing.T) {
	Need(t)
	if err := LinkType("bridge").Check(); err != nil {
		t.Error(err)
	}
	err := LinkType("no-such-kind").Check()
	if u, ok := errors.AsType[*netns.Unavailable](err); !ok || !strings.Contains(u.Fix, "modprobe no-such-kind") {
		t.Errorf("got %v", err)
	}
}
