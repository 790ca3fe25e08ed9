package e2e

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sitewire/topologies/netns/nstest"
)

// Streams are numbered datagrams between the hosts of two sites, 1,000 a second in all: 250 each way in each family. Whoever gets them counts.
// One way, because an emulated machine has no time for answers.
type streams struct {
	t      *testing.T
	begin  time.Time
	stop   chan struct{}
	sender sync.WaitGroup
	list   []*stream
}

// stream is one direction of one family.
type stream struct {
	what     string
	from, to *net.UDPConn
	dst      netip.AddrPort

	mu      sync.Mutex
	sent    []time.Time // by number
	got     []bool      // by number
	refused error       // the last one, of sending
}

// streamPort is where datagrams go, and streamGap the time between two of a stream. A sender that was held up sends at most streamBurst at
// once: more would fill queues.
const (
	streamPort  = 7777
	streamGap   = 4 * time.Millisecond
	streamBurst = 4
)

// newStreams begins to send.
func newStreams(t *testing.T, a, b *site) *streams {
	t.Helper()
	s := &streams{t: t, begin: time.Now(), stop: make(chan struct{})}
	for _, x := range []struct {
		from, to *site
		dst      netip.Addr
	}{{a, b, b.host4}, {a, b, b.host6}, {b, a, a.host4}, {b, a, a.host6}} {
		st := &stream{what: x.from.name + " to " + x.dst.String(), dst: netip.AddrPortFrom(x.dst, streamPort)}
		network := "udp4"
		if x.dst.Is6() {
			network = "udp6"
		}
		must(t, x.to.host.Do(func() (err error) {
			st.to, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(st.dst))
			return err
		}))
		must(t, st.to.SetReadBuffer(1<<20))
		must(t, x.from.host.Do(func() (err error) {
			st.from, err = net.ListenUDP(network, nil)
			return err
		}))
		s.list = append(s.list, st)
		go st.receive()
	}
	t.Cleanup(s.close)
	s.sender.Go(s.send)
	return s
}

func (s *streams) close() {
	for _, st := range s.list {
		st.from.Close()
		st.to.Close()
	}
}

func (s *streams) send() {
	next := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-time.After(time.Until(next)):
		}
		for range streamBurst {
			for _, st := range s.list {
				st.one()
			}
			if next = next.Add(streamGap); time.Now().Before(next) {
				break
			}
		}
		if late := time.Now(); next.Before(late) {
			next = late
		}
	}
}

// one sends the next datagram. It is on the books before it is on the wire.
func (st *stream) one() {
	st.mu.Lock()
	n := len(st.sent)
	st.sent, st.got = append(st.sent, time.Now()), append(st.got, false)
	st.mu.Unlock()
	if _, err := st.from.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, uint64(n)), st.dst); err != nil {
		st.mu.Lock()
		st.refused = err
		st.mu.Unlock()
	}
}

func (st *stream) receive() {
	buf := make([]byte, 64)
	for {
		n, _, err := st.to.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 8 {
			continue
		}
		st.mu.Lock()
		if k := binary.BigEndian.Uint64(buf); k < uint64(len(st.got)) {
			st.got[k] = true
		}
		st.mu.Unlock()
	}
}

// lost returns the numbers of the datagrams that have not come.
func (st *stream) lost() (list []int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, came := range st.got {
		if !came {
			list = append(list, k)
		}
	}
	return list
}

// whole ends the streams and fails if a datagram was lost.
func (s *streams) whole(what string) {
	s.t.Helper()
	close(s.stop)
	s.sender.Wait()
	took := time.Since(s.begin)
	end := time.Now().Add(nstest.Patience(3 * time.Second))
	sent := 0
	for _, st := range s.list {
		for len(st.lost()) > 0 && time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
		}
		lost := st.lost()
		sent += len(st.sent)
		if len(st.sent) == 0 {
			s.t.Errorf("%s: %s: nothing was sent", what, st.what)
		}
		if len(lost) > 0 {
			first, last := lost[0], lost[len(lost)-1]
			s.t.Errorf("%s: %s: lost %d of %d, from #%d to #%d, %.1f to %.1f s after the start; refused: %v", what, st.what, len(lost), len(st.sent), first, last,
				st.sent[first].Sub(s.begin).Seconds(), st.sent[last].Sub(s.begin).Seconds(), st.refused)
		}
	}
	s.close()
	s.t.Logf("%s: %d datagrams in %.1f s (%.0f/s)", what, sent, took.Seconds(), float64(sent)/took.Seconds())
}
