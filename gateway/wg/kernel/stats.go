package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"sitewire/gateway/wg"
)

// dumpTries bounds the repetitions of a dump that others interrupt each time.
const dumpTries = 8

// patience is how many times MaxAge old the statistics may become where others interrupt every reading.
const patience = 3

// pace holds reading down to a share of the time.
type pace struct {
	end  time.Time // of the last reading; zero: none
	wait time.Duration
}

// note sets the pace after a reading from start to end.
func (p *pace) note(start, end time.Time, share float64, most time.Duration) {
	p.end, p.wait = end, min(time.Duration(float64(end.Sub(start))/share), most)
}

func (p *pace) due(now time.Time) bool { return p.end.IsZero() || now.Sub(p.end) >= p.wait }

// part is this device's part of Options.Share, which is that of all devices together.
func (d *Device) part() float64 { return d.share / float64(max(1, d.known.devices.Load())) }

// statsCache is the last complete answer of Stats. Owned by readMu, but for changes.
type statsCache struct {
	peers []wg.PeerStats
	at    time.Time // when they were read; zero: never
	pace  pace
	// changes counts those of peers that we made, and seen is how many there were when peers was read.
	changes atomic.Uint64
	seen    uint64
}

// forget has the next Stats ask the kernel.
func (c *statsCache) forget() { c.changes.Add(1) }

// valid tells that there is an answer, and that we changed no peer since.
func (c *statsCache) valid() bool { return !c.at.IsZero() && c.seen == c.changes.Load() }

// Stats implements wg.Device. The kernel cannot tell of peers without their allowed-IPs, so that the answer may be as old as Options.Share
// and MaxAge permit. It is never older than the last change of peers made here.
func (d *Device) Stats(ctx context.Context) ([]wg.PeerStats, error) {
	peers, err := d.quickStats(ctx)
	if err != errInterrupted {
		return peers, err
	}
	// Once more, with our own changes held back.
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	start := d.now()
	s, err := d.readAll(ctx, false)
	if errors.Is(err, errInterrupted) {
		if old := d.oldStats(start); old != nil {
			return old, nil
		}
	}
	if err != nil {
		return nil, d.failed("read peers", err)
	}
	return slices.Clone(s.peers), nil
}

// StatsTime is when the kernel gave what Stats last returned.
func (d *Device) StatsTime() time.Time {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	return d.stats.at
}

// oldStats returns what was read before a reading that began at start and failed, if there is anything and it is not too old.
func (d *Device) oldStats(start time.Time) []wg.PeerStats {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	now := d.now()
	if !d.stats.valid() || now.Sub(d.stats.at) > patience*d.maxAge {
		return nil
	}
	d.stats.pace.note(start, now, d.part(), d.maxAge)
	return slices.Clone(d.stats.peers)
}

// quickStats answers from what was read before, or reads without holding back changes. Changes of allowed-IPs interrupt a dump but leave the
// peers in it whole, so that it counts if no peer is missing.
func (d *Device) quickStats(ctx context.Context) ([]wg.PeerStats, error) {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	start := d.now()
	if d.stats.valid() && !d.stats.pace.due(start) {
		return slices.Clone(d.stats.peers), nil
	}
	seen := d.stats.changes.Load()
	d.quick.reset(false)
	err := d.talk.dump(getDevice(d.index), d.quick.add)
	if err == errInterrupted && d.stats.valid() && holdsAll(d.quick.peers, d.stats.peers) {
		err = nil
	}
	switch {
	case err == errInterrupted:
		return nil, err
	case err != nil:
		return nil, d.failed("read peers", err)
	}
	d.keepStats(&d.quick, start, seen)
	return slices.Clone(d.stats.peers), nil
}

// holdsAll tells whether each of want is in got, once.
func holdsAll(got, want []wg.PeerStats) bool {
	seen := make(map[wg.PublicKey]bool, len(got))
	for i := range got {
		if seen[got[i].PublicKey] {
			return false
		}
		seen[got[i].PublicKey] = true
	}
	return !slices.ContainsFunc(want, func(p wg.PeerStats) bool { return !seen[p.PublicKey] })
}

// keepStats remembers the peers that were read since start, when we had made that many changes.
func (d *Device) keepStats(s *state, start time.Time, seen uint64) {
	d.nameZones(s)
	now := d.now()
	d.stats.peers = append(d.stats.peers[:0], s.peers...)
	d.stats.at, d.stats.seen = now, seen
	d.stats.pace.note(start, now, d.part(), d.maxAge)
}

// nameZones gives endpoints that have a scope the name of their interface, as in the configuration.
func (d *Device) nameZones(s *state) {
	names := map[uint32]string{}
	for i, index := range s.scopes {
		if _, ok := names[index]; !ok {
			names[index] = d.links.zone(index)
		}
		at := s.peers[i].Endpoint
		s.peers[i].Endpoint = netip.AddrPortFrom(at.Addr().WithZone(names[index]), at.Port())
	}
}

// readAll reads the whole device, with mu held so that no change of ours interrupts it. What it returns is valid until the next reading.
func (d *Device) readAll(ctx context.Context, allowed bool) (*state, error) {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	if allowed && d.whole.allowed == nil {
		d.whole.allowed = make([]wg.AllowedIP, 0, d.hint+d.hint/16)
	}
	for range dumpTries {
		start := d.now()
		d.whole.reset(allowed)
		err := d.talk.dump(getDevice(d.index), d.whole.add)
		if err == errInterrupted {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		d.keepStats(&d.whole, start, d.stats.changes.Load())
		if allowed {
			d.read.note(start, d.now(), d.share, d.maxAge)
		}
		clear(d.peers)
		for i := range d.whole.peers {
			d.peers[d.whole.peers[i].PublicKey] = true
		}
		return &d.whole, nil
	}
	return nil, fmt.Errorf("%w, %d times: another program keeps changing it", errInterrupted, dumpTries)
}

// readAllowed reads who owns what, with mu held, and brings the ledger up to date if there is one.
func (d *Device) readAllowed(ctx context.Context) ([]wg.AllowedIP, error) {
	s, err := d.readAll(ctx, true)
	if err != nil {
		return nil, err
	}
	list := s.allowed
	s.allowed, d.hint = nil, len(list)
	if d.ledger != nil {
		d.ledger = newLedger(list)
	}
	return list, nil
}

// AllowedIPs implements wg.Device. Changes wait meanwhile.
func (d *Device) AllowedIPs(ctx context.Context) ([]wg.AllowedIP, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(ctx); err != nil {
		return nil, err
	}
	list, err := d.readAllowed(ctx)
	if err != nil {
		return nil, d.failed("read allowed-IPs", err)
	}
	return list, nil
}
