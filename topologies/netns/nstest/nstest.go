// Package nstest is how tests use package netns.
//
// Job: enter the lab in TestMain, say in one fixed form why a test cannot run here, and clean namespaces up.
// Owner: the test that calls it.
// Inputs: SITEWIRE_REQUIRE, a comma-separated list of needs whose absence is a failure: a kind ("tun"), a name ("bird"), kind:name, or "all".
// Outputs: skips that read `SKIP-REASON kind=program name=bird fix="..." why="..."`, which ./test collects.
// Invariants: a test that cannot run never passes silently.
package nstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"sitewire/topologies/netns"
)

const (
	// requireEnv lists the needs that must not be missing.
	requireEnv = "SITEWIRE_REQUIRE"
	// slowEnv is by how much time passes more slowly here than on a usual machine: in a guest that is emulated. A whole number.
	slowEnv = "SITEWIRE_SLOW"
)

// Requirement is something a test cannot do without.
type Requirement struct {
	// Kind and Name identify it in skips and in SITEWIRE_REQUIRE.
	Kind, Name string
	// Check returns nil if it is there. An *netns.Unavailable says best what to do.
	Check func() error
}

// The needs that more than one package has. Every test that uses a namespace needs Namespaces; NS and Need imply it.
var (
	Namespaces = Requirement{Kind: "namespaces", Name: "namespaces", Check: namespaces}
	TUN        = Requirement{Kind: "tun", Name: "/dev/net/tun", Check: netns.UsableTUN}
)

// packages says which Debian package has a program whose name differs from the package's.
var packages = map[string]string{
	"bird": "bird2", "birdc": "bird2", "bgpd": "frr", "zebra": "frr", "vtysh": "frr", "gobgp": "gobgpd", "wg": "wireguard-tools", "wg-quick": "wireguard-tools",
	"nft": "nftables", "ip": "iproute2", "ping": "iputils-ping", "promtool": "prometheus",
}

// Program needs executables, looked up as netns.Program does.
func Program(name string) Requirement {
	return Requirement{Kind: "program", Name: name, Check: func() error {
		if _, err := netns.Program(name); err != nil {
			pkg := name
			if p, ok := packages[name]; ok {
				pkg = p
			}
			return &netns.Unavailable{What: name, Why: err.Error(), Fix: "apt-get install " + pkg}
		}
		return nil
	}}
}

// LinkType needs a kind of device that not every kernel has: "wireguard", "dummy", "vrf". It makes one in a namespace of its own to find out.
func LinkType(kind string) Requirement {
	return Requirement{Kind: "link", Name: kind, Check: func() error {
		n, err := netns.New("probe-" + kind)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "probe"
		err = n.Netlink().LinkAdd(&netlink.GenericLink{LinkAttrs: attrs, LinkType: kind})
		if err != nil {
			err = &netns.Unavailable{What: kind + " devices", Why: err.Error(), Fix: "modprobe " + kind + ", or a kernel that has it: go test ./topologies/guest runs tests under Debian's"}
		}
		return errors.Join(err, n.Close())
	}}
}

// Main is a TestMain: it enters the lab and runs the tests. Where no lab can be had the tests run outside, and those that Need one skip.
// It never returns.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
func Main(m *testing.M) {
	if err := netns.Enter(); err != nil {
		if _, ok := errors.AsType[*netns.Unavailable](err); !ok {
			fmt.Fprintln(os.Stderr, "nstest:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func namespaces() error {
	if netns.Inside() {
		return nil
	}
	if err := netns.Usable(); err != nil {
		return err
	}
	return errors.New("this test program did not enter a lab: its TestMain must call nstest.Main, and must not have been refused (see `unshare -Urnmp --fork --mount-proc true`)")
}

// Need skips the test unless the lab and everything listed is there. It fails instead of skipping if SITEWIRE_REQUIRE names what is missing.
func Need(t testing.TB, needs ...Requirement) {
	t.Helper()
	NeedOutside(t, slices.Insert(slices.Clone(needs), 0, Namespaces)...)
}

// NeedOutside is Need for a test that does without a lab.
func NeedOutside(t testing.TB, needs ...Requirement) {
	t.Helper()
	for _, n := range needs {
		err := n.Check()
		if err == nil {
			continue
		}
		fix, why := "none known", err.Error()
		if u, ok := errors.AsType[*netns.Unavailable](err); ok {
			fix, why = u.Fix, u.Why
		}
		reason := fmt.Sprintf("SKIP-REASON kind=%s name=%s fix=%q why=%q", n.Kind, n.Name, fix, why)
		if required(n) {
			t.Fatalf("%s names what is missing: %s", requireEnv, reason)
		}
		t.Skip(reason)
	}
}

func required(n Requirement) bool {
	for word := range strings.SplitSeq(os.Getenv(requireEnv), ",") {
		switch strings.TrimSpace(word) {
		case "all", n.Kind, n.Name, n.Kind + ":" + n.Name:
			return true
		}
	}
	return false
}

// NS makes a namespace that is closed when the test ends, and skips the test where there are none.
func NS(t testing.TB, name string) *netns.NS {
	t.Helper()
	Need(t)
	n, err := netns.New(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// Patience is how long to wait here for what takes at most d on a usual machine.
func Patience(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv(slowEnv)); err == nil && n > 1 {
		return d * time.Duration(n)
	}
	return d
}

// Run runs a command in the namespace and returns what it printed. A failure of the command, or more than 20 s of Patience, fails the test.
func Run(t testing.TB, n *netns.NS, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience(20*time.Second))
	defer cancel()
	cmd := n.Command(ctx, name, args...)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if ee, ok := errors.AsType[*exec.ExitError](err); ok {
			stderr = ee.Stderr
		}
		t.Fatalf("%s: %s %s: %v\n%s%s", n, name, strings.Join(args, " "), err, out, stderr)
	}
	return string(out)
}

// Eventually polls f until it returns nil or the time is up (with Patience), which fails the test with f's last error.
func Eventually(t testing.TB, timeout time.Duration, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience(timeout))
	defer cancel()
	if err := netns.WaitFor(ctx, 20*time.Millisecond, what, f); err != nil {
		t.Fatal(err)
	}
}
