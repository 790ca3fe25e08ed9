package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sitewire/gateway/wg"
	"sitewire/gateway/wg/wgtest"
)

// What others do to a device is counted: a peer that they add stays, one that they take comes back, and so does a device.
func TestDriftOfDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t, oneStore)
		defer r.stop(false)
		r.after(5 * time.Second)
		if d := r.gw.Drift(); d != (Drift{}) {
			t.Fatalf("at rest: %+v", d)
		}
		name := r.tunnel("store").Device
		stranger := wg.PeerConfig{Name: "stranger", PublicKey: wgtest.PrivateKey("stranger").Public()}
		dev := r.backend.device(name)
		if err := dev.Apply(t.Context(), wg.Delta{SetPeers: []wg.PeerConfig{stranger}}); err != nil {
			t.Fatal(err)
		}
		r.after(5 * time.Second)
		if d, want := r.gw.Drift(), (Drift{PeersExtra: 1}); d != want {
			t.Errorf("a stranger: %+v, want %+v", d, want)
		}
		if err := dev.Apply(t.Context(), wg.Delta{RemovePeers: []wg.PublicKey{stranger.PublicKey, r.tunnel("store").PublicKey}}); err != nil {
			t.Fatal(err)
		}
		r.after(5 * time.Second)
		if d, want := r.gw.Drift(), (Drift{PeersExtra: 1, PeersMissing: 1, PeersRestored: 1}); d != want {
			t.Errorf("a peer taken: %+v, want %+v", d, want)
		}
		r.backend.vanish(name)
		r.after(5 * time.Second)
		if d, want := r.gw.Drift(), (Drift{PeersExtra: 1, PeersMissing: 1, PeersRestored: 1, DevicesLost: 1, DevicesRestored: 1}); d != want {
			t.Errorf("the device gone: %+v, want %+v", d, want)
		}
	})
}

// Packet counters are read by the poll, only if asked for, and only of devices that are ours.
func TestDeviceCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, oneStore)
		asked := 0
		r.gw.tunnels.counters = func(context.Context) (map[string]wg.LinkCounters, error) {
			asked++
			if asked > 2 {
				return nil, errTest
			}
			return map[string]wg.LinkCounters{r.backend.names()[0]: {ReceivePackets: uint64(asked)}, "sw-other": {}}, nil
		}
		r.run()
		defer r.stop(false)
		r.after(14 * time.Second)
		got := r.gw.DeviceCounters()
		if c := got[r.tunnel("store").Device]; len(got) != 1 || c.ReceivePackets != 2 || asked != 3 {
			t.Errorf("asked %d times, have %v", asked, got)
		}
		quiet := newRig(t, oneStore)
		if quiet.gw.DeviceCounters() != nil {
			t.Error("counters that nobody asked for")
		}
	})
}
