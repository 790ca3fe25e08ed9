package routes

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The way of a lost tunnel. Whoever notices the loss tells the Feed, which raises an alarm. The diverter writes the Divert
// at once, beside whatever the Syncer does at this moment, which may take seconds with a large table. The Syncer hears of
// the loss by the Feed and of the Divert as a result, plans what follows prefix by prefix, and ends the diversion when the
// peer is alive again, after all that: no route goes back to the tunnel before it is meant to. The Divert that the Syncer
// would plan is the same one, so it does not matter who is first, and a diversion that comes too late is ended as well.

// PutReachable says whether a neighbour can be reached, where that is known without a session (BFD). The paths of one that
// cannot be do not count any more; call PutLoss before. A neighbour that was never mentioned counts as reachable.
//
// The reader is woken when its device has been diverted, not before: what it does then takes all the time of a processor that it can get.
func (f *Feed) PutReachable(neighbour string, is bool) {
	put := f.put
	if !is && f.heeded.Load() {
		put = f.putQuietly
	}
	put(func(b *Batch) {
		if b.reachable == nil {
			b.reachable = make(map[string]bool)
		}
		b.reachable[neighbour] = is
	})
	if !is {
		f.raise(alarm{neighbour: neighbour})
	}
}

// alarm names a peer whose tunnel is dead or a neighbour that cannot be reached.
type alarm struct{ peer, neighbour string }

func (f *Feed) raise(a alarm) {
	f.mu.Lock()
	if f.alarms == nil {
		f.alarms = make(map[alarm]struct{})
	}
	f.alarms[a] = struct{}{}
	f.mu.Unlock()
	select {
	case f.alarm <- struct{}{}:
	default:
	}
}

func (f *Feed) takeAlarms() map[alarm]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.alarms
	f.alarms = nil
	return list
}

// diverter diverts the devices of lost tunnels.
//
// Owner: its own goroutine, which start begins; devices is set by the Syncer. What was done waits for the Syncer in results.
type diverter struct {
	switcher Switcher
	feed     *Feed
	log      *slog.Logger
	devices  atomic.Pointer[map[alarm]string]
	done     chan struct{} // signalled when it acted

	mu      sync.Mutex
	results []switched
}

// switched is an operation that was acknowledged at a time.
type switched struct {
	op Op
	at time.Time
}

// set tells which devices are lost with what. A neighbour stands for its peer if there is no other behind it; where there
// are several the Syncer finds out.
func (d *diverter) set(p Policy) {
	if d.switcher == nil {
		return
	}
	devices := make(map[alarm]string)
	rules := compileRules(p)
	behind := make(map[string]int)
	for _, n := range p.Neighbours {
		if !n.Disabled {
			behind[n.Peer]++
		}
	}
	for name, peer := range rules.peers {
		if !peer.shared {
			devices[alarm{peer: name}] = peer.Device
		}
	}
	for _, n := range p.Neighbours {
		if device, ok := devices[alarm{peer: n.Peer}]; ok && !n.Disabled && behind[n.Peer] == 1 {
			devices[alarm{neighbour: n.Name}] = device
		}
	}
	d.devices.Store(&devices)
}

// start runs the diverter until the returned function is called, which waits for its end.
func (d *diverter) start(ctx context.Context) (stop func()) {
	if d.switcher == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	d.feed.heeded.Store(true)
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-d.feed.alarm:
				d.act(ctx)
			}
		}
	})
	return func() { d.feed.heeded.Store(false); cancel(); wg.Wait() }
}

// act writes the Diverts of what was lost, and has the Syncer go on. What fails that will try.
func (d *diverter) act(ctx context.Context) {
	defer func() {
		select {
		case d.done <- struct{}{}:
		default:
		}
	}()
	devices := d.devices.Load()
	if devices == nil {
		return
	}
	var ops []Op
	for a := range d.feed.takeAlarms() {
		if device, ok := (*devices)[a]; ok && !slices.ContainsFunc(ops, func(o Op) bool { return o.Device == device }) {
			ops = append(ops, Op{Kind: Divert, Device: device})
		}
	}
	if len(ops) == 0 {
		return
	}
	slices.SortFunc(ops, func(a, b Op) int { return strings.Compare(a.Device, b.Device) })
	errs := d.switcher.Switch(ctx, ops)
	at := time.Now()
	d.mu.Lock()
	for i, op := range ops {
		if errs[i] == nil {
			d.results = append(d.results, switched{op, at})
		}
	}
	d.mu.Unlock()
}

func (d *diverter) take() []switched {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.results
	d.results = nil
	return list
}

// diverted notes what the diverter did. The Feed knew of the loss before that, so whoever calls this takes from the Feed next:
// or the device would count as diverted without a reason, and be restored.
func (s *Syncer) diverted() {
	for _, x := range s.diverter.take() {
		s.ledger.Done(x.op, x.at, 0)
	}
}

// switchFailed has a diversion, or the end of one, tried again.
func (s *Syncer) switchFailed(f failedOp) {
	s.switchTries++
	s.switchDue = time.Now().Add(backoff(s.switchTries))
	if s.switchTries == 1 {
		s.log.Warn("not done, will be tried again", "op", f.op.String(), "error", f.err)
	}
}
