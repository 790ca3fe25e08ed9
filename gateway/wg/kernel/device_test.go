package kernel

import (
	"fmt"
	"os"
	"testing"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
	"sitewire/gateway/wg/wgtest/tunneltest"
	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) {
	if err := netns.Enter(); err == nil && os.Getenv(victimEnv) != "" {
		fmt.Fprintln(os.Stderr, victim())
		os.Exit(1)
	}
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(name, key string) wg.DeviceConfig { return tunneltest.Config(name, key) }

// fakeDevice is a Device that talks to a fake kernel, as Open leaves it.
func fakeDevice(t testing.TB, f *fakeKernel, o Options) *Device {
	t.Helper()
	d := newDevice(config("wg0", "self"), o, f, fakeLinks{f}, &capability{})
	d.index = fakeIndex
	d.msg.reset(d.index)
	d.msg.settings(config("wg0", "self"))
	must(t, f.set(d.msg.bytes()))
	return d
}

// kernels runs a test on both kinds of kernel.
func kernels(t *testing.T, test func(t *testing.T, f *fakeKernel)) {
	for name, removes := range map[string]bool{"Linux6.16": true, "Linux6.1": false} {
		t.Run(name, func(t *testing.T) {
			f := newFakeKernel(removes)
			test(t, f)
			if f.replaced {
				t.Error("a list was replaced")
			}
			if f.widened {
				t.Error("allowed-IPs were sent without WGPEER_F_UPDATE_ONLY")
			}
			if f.longest > 65_535 {
				t.Errorf("a message had %d bytes", f.longest)
			}
		})
	}
}

func TestConformanceFake(t *testing.T) {
	for name, removes := range map[string]bool{"Linux6.16": true, "Linux6.1": false} {
		t.Run(name, func(t *testing.T) {
			wgtest.TestDevice(t, func(t *testing.T) wg.Device {
				f := newFakeKernel(removes)
				t.Cleanup(func() {
					if f.replaced || f.widened || f.longest > 65_535 {
						t.Errorf("replaced %t, without UPDATE_ONLY %t, longest message %d", f.replaced, f.widened, f.longest)
					}
				})
				return fakeDevice(t, f, Options{})
			})
		})
	}
}
