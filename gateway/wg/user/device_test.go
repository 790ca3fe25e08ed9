package user

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/tuntest"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/gateway/wg/wgtest/tunneltest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func config(name, key string) wg.DeviceConfig { return tunneltest.Config(name, key) }

// opener opens real devices, with their UAPI sockets in a directory of the test's own.
func opener(t testing.TB, o Options) tunneltest.Open {
	base := t.TempDir()
	return func(ctx context.Context, cfg wg.DeviceConfig, underlay string) (_ wg.Device, err error) {
		o := o
		o.Underlay = underlay
		if o.ControlDir == "" { // each its own: sockets have the names of their devices
			if o.ControlDir, err = os.MkdirTemp(base, ""); err != nil {
				return nil, err
			}
		}
		return o.Opener()(ctx, cfg)
	}
}

// openIn opens a real device in a namespace.
func openIn(t testing.TB, ns *netns.NS, cfg wg.DeviceConfig, o Options) *Device {
	t.Helper()
	return opener(t, o).In(t, ns, cfg, "").(*Device)
}

func TestConformanceInMemory(t *testing.T) {
	for name, fast := range map[string]bool{"Accessor": true, "Text": false} {
		t.Run(name, func(t *testing.T) {
			wgtest.TestDevice(t, func(t *testing.T) wg.Device {
				noLeak(t)
				log := slog.New(slog.DiscardHandler)
				d := newDevice("wg0", tuntest.NewChannelTUN().TUN(), NewBind(BindOptions{}), log)
				must(t, d.start(config("wg0", "self")))
				if !fast {
					d.access = nil
				}
				return d
			})
		})
	}
}

func TestConformanceTUN(t *testing.T) {
	ns := nstest.NS(t, "conform")
	nstest.Need(t, nstest.TUN)
	wgtest.TestDevice(t, func(t *testing.T) wg.Device {
		noLeak(t)
		return openIn(t, ns, config("wg0", "self"), Options{})
	})
}

func TestTunnelTUN(t *testing.T) {
	nstest.Need(t, nstest.TUN)
	tunneltest.TestTunnel(t, opener(t, Options{}))
}

// pair is two sites with a device each.
type pair struct {
	tunneltest.Pair
	da, db *Device
}

func newPair(t testing.TB, o Options) pair {
	t.Helper()
	nstest.Need(t, nstest.TUN)
	p := tunneltest.NewPair(t, opener(t, o))
	return pair{p, p.DA.(*Device), p.DB.(*Device)}
}

func TestTrafficOverBothFamilies(t *testing.T) {
	noLeak(t)
	p := newPair(t, Options{})
	for _, underlay := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}, {"192.0.2.1", "192.0.2.2"}} {
		p.Connect(t, underlay[0], underlay[1])
		for _, inner := range []string{"10.0.0.2", "fd00::2"} {
			tunneltest.Reach(t, p.A, inner)
			// Small and large: the larger ones are segmented or fragmented on the way.
			for _, size := range []int{0, 1300, 5000} {
				sent, got, err := netns.Ping(t.Context(), p.A, netip.Addr{}, netip.MustParseAddr(inner), netns.PingOpts{Count: 5, Size: size})
				if err != nil || got != sent {
					t.Fatalf("over %s: %d of %d pings of %d bytes to %s answered, %v", underlay[0], got, sent, size, inner, err)
				}
			}
		}
		stats, err := p.da.Stats(t.Context())
		must(t, err)
		want := netip.AddrPortFrom(netip.MustParseAddr(underlay[1]), p.db.ListenPort())
		if len(stats) != 1 || stats[0].Endpoint != want || stats[0].ReceiveBytes < 5000 || stats[0].TransmitBytes < 5000 ||
			time.Since(stats[0].LastHandshake) > time.Minute {
			t.Fatalf("statistics %+v, want endpoint %s, traffic and a young handshake", stats, want)
		}
	}
	// TCP, which the kernel hands over in frames of up to 64 KiB.
	for _, addr := range []string{"10.0.0.2", "fd00::2"} {
		if got, want := p.tcp(t, addr, 8<<20), int64(8<<20); got != want {
			t.Errorf("TCP to %s carried %d of %d bytes", addr, got, want)
		}
	}
}

// tcp sends n bytes with a pattern from a to addr of b, and returns how many arrived as sent.
func (p pair) tcp(t testing.TB, addr string, n int) (arrived int64) {
	t.Helper()
	var l net.Listener
	must(t, p.B.Do(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(addr, "0")); return err }))
	defer l.Close()
	done := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- -1
			return
		}
		defer c.Close()
		var sum int64
		r := bufio.NewReaderSize(c, 1<<16)
		for {
			b, err := r.ReadByte()
			if err != nil || b != byte(sum*7>>3) {
				break
			}
			sum++
		}
		done <- sum
	}()
	var c net.Conn
	must(t, p.A.Do(func() (err error) { c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second); return err }))
	must(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(int64(i) * 7 >> 3)
	}
	if _, err := c.Write(data); err != nil {
		t.Error(err)
	}
	must(t, c.Close())
	return <-done
}

// A userspace device goes with its link, whatever Close is told.
func TestLinkGoesWithDevice(t *testing.T) {
	ns := nstest.NS(t, "link")
	nstest.Need(t, nstest.TUN)
	d := openIn(t, ns, config("wg0", "self"), Options{})
	must(t, d.Close(false))
	if _, err := ns.Netlink().LinkByName("wg0"); err == nil {
		t.Error("the link outlived the device")
	}
}

// A link that cannot be ours is refused at once, and nothing is left behind.
func TestForeignLinkIsNotWaitedFor(t *testing.T) {
	ns := nstest.NS(t, "foreign")
	nstest.Need(t, nstest.TUN)
	must(t, netns.Link(ns, "wg0", ns, "other", netns.LinkOpts{}))
	dir := t.TempDir()
	start := time.Now()
	must(t, ns.Do(func() error {
		if _, err := Open(t.Context(), config("wg0", "self"), Options{ControlDir: dir}); !errors.Is(err, wg.ErrLinkExists) {
			t.Errorf("error %v, want ErrLinkExists", err)
		}
		return nil
	}))
	if took := time.Since(start); took > vanish/2 {
		t.Errorf("waited %s for a link that cannot be ours", took)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The TUN of a process that is just going away is waited for.
func TestVanishingTUN(t *testing.T) {
	ns := nstest.NS(t, "vanish")
	nstest.Need(t, nstest.TUN)
	first := openIn(t, ns, config("wg0", "self"), Options{})
	closed := make(chan error, 1)
	time.AfterFunc(5*poll, func() { closed <- first.Close(true) })
	openIn(t, ns, config("wg0", "self"), Options{})
	must(t, <-closed)
}

func TestDeletedLink(t *testing.T) {
	noLeak(t)
	ns := nstest.NS(t, "deleted")
	nstest.Need(t, nstest.TUN)
	d := openIn(t, ns, config("wg0", "self"), Options{})
	must(t, ns.Up("wg0"))
	must(t, ns.DelLink("wg0"))
	select {
	case <-d.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the device did not notice")
	}
	if err := d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}); !errors.Is(err, wg.ErrClosed) {
		t.Errorf("apply: %v, want ErrClosed", err)
	}
}

func TestWgShow(t *testing.T) {
	ns := nstest.NS(t, "show")
	nstest.Need(t, nstest.TUN, nstest.Program("wg"))
	cfg := config("wgshow0", "self")
	cfg.FirewallMark = 0x51
	d := openIn(t, ns, cfg, Options{ControlDir: ControlDir})
	peer := wgtest.Peer("a")
	peer.Endpoint, peer.PersistentKeepalive = netip.MustParseAddrPort("[2001:db8::9]:51820"), 25*time.Second
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed("a", "10.0.0.0/24", "fd00::/64")}))
	out, err := exec.CommandContext(t.Context(), "wg", "show", "wgshow0").CombinedOutput()
	if err != nil {
		t.Fatalf("wg show: %v\n%s", err, out)
	}
	for _, want := range []string{
		"interface: wgshow0", "public key: " + cfg.PrivateKey.Public().String(), "private key: (hidden)",
		fmt.Sprintf("listening port: %d", d.ListenPort()), "fwmark: 0x51", "peer: " + peer.PublicKey.String(),
		"endpoint: [2001:db8::9]:51820", "10.0.0.0/24", "fd00::/64", "persistent keepalive: every 25 seconds",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("wg show does not say %q:\n%s", want, out)
		}
	}
	// And what wg sets, we see.
	out, err = exec.CommandContext(t.Context(), "wg", "set", "wgshow0", "peer", wgtest.Peer("b").PublicKey.String()).CombinedOutput()
	if err != nil {
		t.Fatalf("wg set: %v\n%s", err, out)
	}
	if stats, err := d.Stats(t.Context()); err != nil || len(stats) != 2 {
		t.Errorf("statistics %v, %v, want two peers", stats, err)
	}
	must(t, d.Close(true))
	if left, err := filepath.Glob(filepath.Join(ControlDir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A device without a place for its UAPI socket works, and says so once.
func TestNoPlaceForControlSocket(t *testing.T) {
	ns := nstest.NS(t, "noplace")
	nstest.Need(t, nstest.TUN)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	var logs logBuffer
	d := openIn(t, ns, config("wg0", "self"), Options{ControlDir: filepath.Join(file, "dir"), Logger: logs.logger()})
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a")}}))
	if n := strings.Count(logs.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, logs.String())
	}
}

// No key in any form reaches a log or an error, whatever is done to the device, the UAPI socket included.
func TestSecretsStayInside(t *testing.T) {
	var logs logBuffer
	dir := t.TempDir()
	d := newDevice("wg0", tuntest.NewChannelTUN().TUN(), NewBind(BindOptions{Logger: logs.logger()}), logs.logger())
	defer d.Close(true)
	must(t, d.start(config("wg0", "self")))
	var err error
	d.control, err = listenControl(dir, "wg0", d.dev.IpcHandle)
	must(t, err)
	peer := wgtest.Peer("a")
	peer.PresharedKey, peer.Endpoint = wgtest.PrivateKey("psk"), netip.MustParseAddrPort("127.0.0.1:9")
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{peer}, Allow: wgtest.Allowed("a", "10.0.0.0/24")}))
	secrets := []wg.Secret{wgtest.PrivateKey("self"), wgtest.PrivateKey("psk")}
	for _, s := range secrets {
		for _, text := range []string{
			"private_key=" + s.Hex() + "zz\n\n", "private_key " + s.Hex() + "\n\n", s.Hex() + "\n\n", s.Reveal() + "=x\n\n",
			"public_key=" + peer.PublicKey.Hex() + "\npreshared_key=" + s.Hex()[1:] + "g\n\n",
			"public_key=" + peer.PublicKey.Hex() + "\nendpoint=" + s.Reveal() + "\n\n",
			"public_key=" + peer.PublicKey.Hex() + "\npresharedkey:" + s.Hex() + "\n\n",
			"listen_port=" + s.Hex() + "\n\n",
		} {
			if err := d.set(text, "test"); err == nil {
				t.Error("a malformed text was accepted")
			} else {
				fmt.Fprintln(&logs, err)
			}
			c, err := net.Dial("unix", filepath.Join(dir, "wg0.sock"))
			must(t, err)
			_, err = io.WriteString(c, "set=1\n"+text)
			must(t, err)
			must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
			answer, err := bufio.NewReader(c).ReadString('\n')
			if err != nil || !strings.HasPrefix(answer, "errno=-") && !strings.HasPrefix(answer, "errno=") || answer == "errno=0\n" {
				t.Errorf("answer %q, %v", answer, err)
			}
			must(t, c.Close())
		}
		// An operation that is none: wireguard-go logs it.
		c, err := net.Dial("unix", filepath.Join(dir, "wg0.sock"))
		must(t, err)
		_, err = io.WriteString(c, s.Hex()+"\n")
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, _ = io.ReadAll(c)
		must(t, c.Close())
	}
	text := strings.ToLower(logs.String())
	if len(text) < 100 {
		t.Fatalf("hardly anything was logged: %s", text)
	}
	for _, s := range secrets {
		for _, form := range []string{s.Hex(), s.Hex()[1:], s.Reveal(), s.Reveal()[:20]} {
			if strings.Contains(text, strings.ToLower(form)) {
				t.Errorf("a secret was printed:\n%s", logs.String())
			}
		}
	}
}

// A tunnel MTU that the underlay cannot carry costs speed, not connections.
func TestTunnelMTUBeyondUnderlay(t *testing.T) {
	p := newPair(t, Options{})
	p.Connect(t, tunneltest.WANA, tunneltest.WANB)
	for _, ns := range []*netns.NS{p.A, p.B} {
		must(t, ns.MTU("wg0", 1500))
	}
	tunneltest.Reach(t, p.A, "10.0.0.2")
	if got, want := p.tcp(t, "10.0.0.2", 1<<20), int64(1<<20); got != want {
		t.Errorf("TCP carried %d of %d bytes", got, want)
	}
}

// Everything may be called at any time, from any goroutine, until and after the device is closed.
func TestConcurrentUse(t *testing.T) {
	noLeak(t)
	d := newDevice("wg0", tuntest.NewChannelTUN().TUN(), NewBind(BindOptions{}), slog.New(slog.DiscardHandler))
	must(t, d.start(config("wg0", "self")))
	must(t, d.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("a"), wgtest.Peer("b")}}))
	set, move := wg.Delta{SetPeers: []wg.PeerConfig{wgtest.Peer("c")}, Allow: wgtest.Allowed("c", "10.0.0.0/8")},
		wg.Delta{Allow: wgtest.Allowed("a", "10.0.0.0/8"), Disallow: wgtest.Allowed("a", "10.0.0.0/8"), RemovePeers: []wg.PublicKey{wgtest.Peer("c").PublicKey}}
	var all sync.WaitGroup
	for _, use := range []func() error{
		func() error { return d.Apply(t.Context(), set) },
		func() error { return d.Apply(t.Context(), move) },
		func() error { _, err := d.Stats(t.Context()); return err },
		func() error { _, err := d.AllowedIPs(t.Context()); return err },
		func() error { d.UnderlayChanged(); d.ListenPort(); return d.usable(t.Context()) },
	} {
		all.Go(func() {
			for {
				if err := use(); errors.Is(err, wg.ErrClosed) {
					return
				} else if err != nil && !errors.Is(err, wg.ErrNoPeer) { // its peers go first
					t.Error(err)
					return
				}
			}
		})
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = d.Close(true) })
	all.Wait()
	must(t, d.Close(true))
}

func TestMTUChanged(t *testing.T) {
	p := newPair(t, Options{})
	p.Connect(t, tunneltest.WANA, tunneltest.WANB)
	// 1397 is not a multiple of 16: a full packet is padded to the MTU and not beyond, so that it fits an underlay that
	// leaves room for exactly that. With a stale MTU it would be fragmented.
	const mtu = 1397
	for _, d := range []*Device{p.da, p.db} {
		d.MTUChanged(mtu)
	}
	must(t, p.A.MTU("wg0", mtu))
	must(t, p.B.MTU("wg0", mtu))
	must(t, p.A.MTU("wan0", mtu+60))
	must(t, p.B.MTU("wan0", mtu+60))
	tunneltest.Reach(t, p.A, "10.0.0.2")
	before := nstest.FragmentsCreated(t, p.A)
	sent, got, err := netns.Ping(t.Context(), p.A, netip.Addr{}, netip.MustParseAddr("10.0.0.2"), netns.PingOpts{Count: 5, Size: mtu - 28})
	if err != nil || got != sent {
		t.Errorf("%d of %d full packets answered, %v", got, sent, err)
	}
	if after := nstest.FragmentsCreated(t, p.A); after != before {
		t.Errorf("full packets were fragmented: %s fragments before, %s after", before, after)
	}
}
