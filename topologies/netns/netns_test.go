package netns_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestLabHidesTheHost(t *testing.T) {
	nstest.Need(t)
	if links := nstest.Run(t, nstest.NS(t, "only-lo"), "ip", "-br", "link"); strings.Count(links, "\n") != 1 || !strings.HasPrefix(links, "lo ") {
		t.Errorf("a new namespace has links:\n%s", links)
	}
	entries, err := os.ReadDir("/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "sitewire-lab", "netns", "wireguard", "lock":
		default:
			t.Errorf("/run has %s, which is not the lab's", e.Name())
		}
	}
	if exe, err := os.Readlink("/proc/1/exe"); err != nil || !strings.HasSuffix(exe, ".test") {
		t.Errorf("process 1 is %q, %v: want the lab's init", exe, err)
	}
}

func TestNewRefusesBadAndTakenNames(t *testing.T) {
	n := nstest.NS(t, "taken")
	for _, name := range []string{"", "a/b", "..", "a b", n.Name()} {
		if got, err := netns.New(name); err == nil {
			t.Errorf("New(%q) made %v", name, got)
		}
	}
	if _, err := os.Stat(n.Path()); err != nil {
		t.Errorf("the refused New damaged the first namespace: %v", err)
	}
}

func TestSysctlStaysInside(t *testing.T) {
	n := nstest.NS(t, "sys")
	for _, key := range []string{"kernel.hostname", "net..kernel.hostname", "vm.swappiness"} {
		if err := n.Sysctl(key, "x"); err == nil {
			t.Errorf("Sysctl(%q) was accepted", key)
		}
	}
	other := nstest.NS(t, "other")
	if err := n.Forward(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ns   *netns.NS
		want string
	}{{n, "1"}, {other, "0"}} {
		for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			if got := strings.TrimSpace(nstest.Run(t, c.ns, "cat", "/proc/sys/"+key)); got != c.want {
				t.Errorf("%s in %s is %s, want %s", key, c.ns, got, c.want)
			}
		}
	}
}

func TestCommandsShareTheRunOfTheirNamespaceOnly(t *testing.T) {
	a, b := nstest.NS(t, "a"), nstest.NS(t, "b")
	if err := netns.Link(a, "wan0", b, "wan0", netns.LinkOpts{}); err != nil {
		t.Fatal(err)
	}
	nstest.Run(t, a, "sh", "-c", "echo from-a > /run/wireguard/wg0.sock")
	if got := nstest.Run(t, a, "cat", "/run/wireguard/wg0.sock"); got != "from-a\n" {
		t.Errorf("the second command in a reads %q", got)
	}
	if got := nstest.Run(t, b, "ls", "/run/wireguard"); got != "" {
		t.Errorf("b sees a's sockets: %q", got)
	}
	if got := nstest.Run(t, b, "ls", "/run/netns"); got != "a\nb\n" {
		t.Errorf("b sees these namespaces: %q", got)
	}
	if got := nstest.Run(t, b, "ip", "netns", "exec", "a", "ip", "-br", "link", "show", "wan0"); !strings.HasPrefix(got, "wan0@") {
		t.Errorf("ip netns exec shows %q", got)
	}
	if got := nstest.Run(t, a, "ls", "/sys/class/net"); !strings.Contains(got, "wan0") {
		t.Errorf("/sys in a shows the devices %q", got)
	}
	// A command in a namespace is in the lab, not in a new one.
	self := nstest.Run(t, a, "sh", "-c", "echo $SITEWIRE_LAB")
	if strings.TrimSpace(self) == "" || strings.TrimSpace(self) != os.Getenv("SITEWIRE_LAB") {
		t.Errorf("the command has lab token %q", self)
	}
}

func TestCommandReportsWhatIsMissing(t *testing.T) {
	n := nstest.NS(t, "missing")
	if err := n.Command(t.Context(), "no-such-program").Run(); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a missing program gives %v", err)
	}
	if err := n.Command(t.Context(), "sh", "-c", "exit 7").Run(); err == nil || err.Error() != "exit status 7" {
		t.Errorf("exit 7 gives %v", err)
	}
}

func TestDoReturnsToWhereItWas(t *testing.T) {
	a, b := nstest.NS(t, "outer"), nstest.NS(t, "inner")
	where := func() string {
		s, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := where()
	boom := errors.New("boom")
	var inA, inB, afterB string
	err := a.Do(func() error {
		inA = where()
		err := b.Do(func() error { inB = where(); return boom })
		afterB = where()
		return err
	})
	if !errors.Is(err, boom) {
		t.Errorf("Do returned %v", err)
	}
	if inA == before || inB == before || inA == inB || afterB != inA || where() != before {
		t.Errorf("before %s, in a %s, in b %s, back in a %s, back %s", before, inA, inB, afterB, where())
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	nstest.Need(t)
	n, err := netns.New("gone")
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Command(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, 10*time.Second, "sleep to start", func() error {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		if err == nil && strings.TrimSpace(string(b)) != "sleep" {
			err = errors.New(string(b))
		}
		return err
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process in the closed namespace ended with %v", err)
	}
	for _, path := range []string{n.Path(), n.RunDir()} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	again, err := netns.New("gone")
	if err != nil {
		t.Fatalf("the name is not free again: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestWaitForSaysWhatWasLast(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	last := errors.New("still cold")
	err := netns.WaitFor(ctx, time.Millisecond, "the soup", func() error { return last })
	if !errors.Is(err, last) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the soup") {
		t.Errorf("WaitFor returned %v", err)
	}
	calls := 0
	if err := netns.WaitFor(t.Context(), time.Millisecond, "three", func() error {
		if calls++; calls < 3 {
			return last
		}
		return nil
	}); err != nil || calls != 3 {
		t.Errorf("WaitFor returned %v after %d calls", err, calls)
	}
}
