package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/gateway/wg"
)

// fakeKernel obeys the rules of drivers/net/wireguard/netlink.c in memory: it takes messages apart as strictly, applies what comes before a
// bad part, and dumps in messages of its own size. It keeps what it was told.
type fakeKernel struct {
	mu sync.Mutex
	// removes is Linux 6.16 and later: WGALLOWEDIP_F_REMOVE_ME.
	removes bool
	// perMessage is how many peers and allowed-IPs go into a message of a dump.
	perMessage int
	// onSet sees every message before it is carried out; an error is the answer. onDump is called before each message of a dump.
	onSet  func(msg []byte) error
	onDump func(part int)

	gone    bool
	private wg.Secret
	port    uint16
	mark    uint32
	peers   []*fakePeer
	owner   map[netip.Prefix]*fakePeer
	order   []netip.Prefix // of insertion; a dump has them in it
	gen     int

	sets, dumps int
	entries     []int // allowed-IPs of each message
	longest     int
	created     []wg.PublicKey // in their order
	replaced    bool           // some message had REPLACE_PEERS or REPLACE_ALLOWEDIPS
	widened     bool           // some allowed-IPs came for a peer without UPDATE_ONLY that is no throw-away peer
	stolen      []netip.Prefix // what a throw-away peer took
}

type fakePeer struct {
	stats     wg.PeerStats
	scope     uint32
	psk       [wg.KeySize]byte
	keepalive uint16
}

const fakeIndex = 7

func newFakeKernel(removes bool) *fakeKernel {
	return &fakeKernel{removes: removes, perMessage: 50, owner: map[netip.Prefix]*fakePeer{}}
}

func (f *fakeKernel) peer(k wg.PublicKey) *fakePeer {
	for _, p := range f.peers {
		if p.stats.PublicKey == k {
			return p
		}
	}
	return nil
}

// fields takes nested attributes apart with encoding/binary alone, not with the code under test.
func fields(b []byte) (out []field, err error) {
	for len(b) > 0 {
		if len(b) < 4 {
			return nil, unix.EINVAL
		}
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < 4 || n > len(b) {
			return nil, unix.EINVAL
		}
		out = append(out, field{int(typ &^ 0x8000), typ&0x8000 != 0, b[4:n]})
		b = b[min((n+3)/4*4, len(b)):]
	}
	return out, nil
}

type field struct {
	typ    int
	nested bool
	val    []byte
}

// parse is nla_parse_nested with a strict policy: lengths by type, 0 for any, -1 for an array.
func parse(b []byte, policy map[int]int) (map[int][]byte, error) {
	list, err := fields(b)
	if err != nil {
		return nil, err
	}
	out := map[int][]byte{}
	for _, f := range list {
		want, known := policy[f.typ]
		if !known || want > 0 && len(f.val) != want || (want == -1) != f.nested {
			return nil, fmt.Errorf("%w: attribute %d of %d bytes", unix.EINVAL, f.typ, len(f.val))
		}
		out[f.typ] = f.val
	}
	return out, nil
}

func (f *fakeKernel) set(msg []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets++
	f.longest = max(f.longest, len(msg))
	f.entries = append(f.entries, 0)
	if f.onSet != nil {
		if err := f.onSet(msg); err != nil {
			return err
		}
	}
	if msg[0] != cmdSetDevice || msg[1] != 1 {
		return unix.EOPNOTSUPP
	}
	a, err := parse(msg[4:], map[int]int{1: 4, 3: 32, 5: 4, 6: 2, 7: 4, 8: -1})
	if err != nil {
		return err
	}
	if f.gone || binary.NativeEndian.Uint32(a[1]) != fakeIndex {
		return unix.ENODEV
	}
	f.gen++
	if a[5] != nil {
		f.replaced = true
	}
	if a[7] != nil {
		f.mark = binary.NativeEndian.Uint32(a[7])
	}
	if a[6] != nil {
		f.port = binary.NativeEndian.Uint16(a[6])
	}
	if a[3] != nil {
		f.private = wg.Secret(a[3])
		f.remove(f.peer(f.private.Public()))
	}
	peers, err := fields(a[8])
	for _, p := range peers {
		if err := f.setPeer(p); err != nil {
			return err
		}
	}
	return err
}

func (f *fakeKernel) setPeer(nest field) error {
	a, err := parse(nest.val, map[int]int{1: 32, 2: 32, 3: 4, 4: 0, 5: 2, 9: -1, 10: 4})
	if err != nil {
		return err
	}
	if !nest.nested || a[1] == nil {
		return unix.EINVAL
	}
	key, flags := wg.PublicKey(a[1]), uint32(0)
	if a[3] != nil {
		flags = binary.NativeEndian.Uint32(a[3])
	}
	if flags >= 1<<3 {
		return unix.EOPNOTSUPP
	}
	p := f.peer(key)
	f.replaced = f.replaced || flags&2 != 0
	f.widened = f.widened || a[9] != nil && flags&4 == 0 && !parking(key)
	if p == nil {
		if flags&(1|4) != 0 || key == f.private.Public() {
			return nil
		}
		p = &fakePeer{stats: wg.PeerStats{PublicKey: key}}
		f.peers = append(f.peers, p)
		f.created = append(f.created, key)
	}
	if flags&1 != 0 {
		f.remove(p)
		return nil
	}
	if a[2] != nil {
		p.psk = [32]byte(a[2])
	}
	if e := a[4]; e != nil {
		f.endpoint(p, e)
	}
	list, err := fields(a[9])
	if err != nil {
		return err
	}
	for _, entry := range list {
		if err := f.setAllowed(p, entry); err != nil {
			return err
		}
	}
	if a[5] != nil {
		p.keepalive = binary.NativeEndian.Uint16(a[5])
	}
	return nil
}

func (f *fakeKernel) endpoint(p *fakePeer, e []byte) {
	port := binary.BigEndian.Uint16(e[2:])
	switch family := binary.NativeEndian.Uint16(e); {
	case family == unix.AF_INET && len(e) == 16:
		p.stats.Endpoint, p.scope = netip.AddrPortFrom(netip.AddrFrom4([4]byte(e[4:])), port), 0
	case family == unix.AF_INET6 && len(e) == 28:
		p.stats.Endpoint, p.scope = netip.AddrPortFrom(netip.AddrFrom16([16]byte(e[8:])), port), binary.NativeEndian.Uint32(e[24:])
	}
}

func (f *fakeKernel) setAllowed(p *fakePeer, nest field) error {
	policy := map[int]int{1: 2, 2: 0, 3: 1}
	if f.removes {
		policy[4] = 4
	}
	a, err := parse(nest.val, policy)
	if err != nil {
		return err
	}
	f.entries[len(f.entries)-1]++
	if !nest.nested || a[1] == nil || a[2] == nil || a[3] == nil {
		return unix.EINVAL
	}
	addr, ok := netip.AddrFromSlice(a[2])
	prefix := netip.PrefixFrom(addr, int(a[3][0])).Masked()
	family := binary.NativeEndian.Uint16(a[1])
	if !ok || !prefix.IsValid() || (family == unix.AF_INET) != addr.Is4() || (family == unix.AF_INET6) != addr.Is6() {
		return unix.EINVAL
	}
	if a[4] != nil && binary.NativeEndian.Uint32(a[4]) == 1 {
		if f.owner[prefix] == p {
			f.disown(prefix)
		}
		return nil
	}
	if old := f.owner[prefix]; old != nil {
		f.disown(prefix)
	}
	if parking(p.stats.PublicKey) {
		f.stolen = append(f.stolen, prefix)
	}
	f.owner[prefix] = p
	f.order = append(f.order, prefix)
	return nil
}

func (f *fakeKernel) disown(p netip.Prefix) { delete(f.owner, p) }

func (f *fakeKernel) remove(p *fakePeer) {
	if p == nil {
		return
	}
	f.peers = slices.DeleteFunc(f.peers, func(o *fakePeer) bool { return o == p })
	for prefix, owner := range f.owner {
		if owner == p {
			delete(f.owner, prefix)
		}
	}
}

// dump follows wg_get_device_dump: what changes in the middle of it interrupts it and cuts short what is left of allowed-IPs.
func (f *fakeKernel) dump(request []byte, each func([]byte) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumps++
	a, err := parse(request[4:], map[int]int{1: 4, 2: 0})
	if err != nil {
		return err
	}
	if f.gone || a[1] == nil || binary.NativeEndian.Uint32(a[1]) != fakeIndex {
		return unix.ENODEV
	}
	gen, interrupted := f.gen, false
	// Peers and entries in the order of the dump, entries by peer.
	f.order = slices.DeleteFunc(f.order, func(p netip.Prefix) bool { return f.owner[p] == nil })
	byPeer := map[*fakePeer][]netip.Prefix{}
	seen := map[netip.Prefix]bool{}
	for _, p := range slices.Backward(f.order) {
		if !seen[p] {
			byPeer[f.owner[p]] = append(byPeer[f.owner[p]], p)
			seen[p] = true
		}
	}
	w := &dumpWriter{limit: f.perMessage}
	w.begin()
	w.attr(3, f.private[:])
	if !f.private.IsZero() {
		public := f.private.Public()
		w.attr(4, public[:])
	}
	w.attr(6, binary.NativeEndian.AppendUint16(nil, f.port))
	w.attr(7, binary.NativeEndian.AppendUint32(nil, f.mark))
	w.attr(2, []byte("wg0\x00"))
	var fail error
	flush := func() {
		msg := w.end()
		if f.onDump != nil {
			f.mu.Unlock()
			f.onDump(w.parts)
			f.mu.Lock()
		}
		interrupted = interrupted || f.gen != gen
		if fail == nil {
			fail = each(msg)
		}
		w.begin()
	}
	for at := 0; at >= 0 && at < len(f.peers); {
		p := f.peers[at]
		if w.full() {
			flush()
		}
		w.peer(p, false)
		for _, prefix := range byPeer[p] {
			if f.gen != gen {
				break
			}
			if w.full() {
				flush()
				w.peer(p, true)
			}
			w.allowed(prefix)
		}
		if at = slices.Index(f.peers, p); at < 0 {
			break // the cursor was removed: the kernel ends the dump, which it knows to be incomplete
		}
		at++
	}
	flush()
	if fail == nil && interrupted {
		fail = errInterrupted
	}
	return fail
}

func (f *fakeKernel) close() {}

// dumpWriter writes the messages of a dump.
type dumpWriter struct {
	b              []byte
	limit, n       int
	parts          int
	peers, one, ip int // where arrays begin
}

func (w *dumpWriter) begin() {
	w.b, w.n, w.peers, w.one, w.ip = []byte{cmdGetDevice, 1, 0, 0}, 0, 0, 0, 0
	w.parts++
}

func (w *dumpWriter) full() bool { return w.n >= w.limit }

func (w *dumpWriter) attr(typ uint16, val []byte) {
	w.b = binary.NativeEndian.AppendUint16(w.b, uint16(4+len(val)))
	w.b = binary.NativeEndian.AppendUint16(w.b, typ)
	w.b = append(w.b, val...)
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0xee) // padding has no meaning
	}
}

func (w *dumpWriter) nest(at *int, typ uint16) {
	*at = len(w.b)
	w.attr(typ|0x8000, nil)
}

func (w *dumpWriter) unnest(at *int) {
	if *at != 0 {
		binary.NativeEndian.PutUint16(w.b[*at:], uint16(len(w.b)-*at))
	}
	*at = 0
}

func (w *dumpWriter) peer(p *fakePeer, continued bool) {
	w.unnest(&w.ip)
	w.unnest(&w.one)
	if w.peers == 0 {
		w.nest(&w.peers, 8)
	}
	w.nest(&w.one, 0)
	w.n++
	w.attr(1, p.stats.PublicKey[:])
	if continued {
		return
	}
	w.attr(2, p.psk[:])
	stamp := make([]byte, 16)
	if t := p.stats.LastHandshake; !t.IsZero() {
		binary.NativeEndian.PutUint64(stamp, uint64(t.Unix()))
		binary.NativeEndian.PutUint64(stamp[8:], uint64(t.Nanosecond()))
	}
	w.attr(6, stamp)
	w.attr(5, binary.NativeEndian.AppendUint16(nil, p.keepalive))
	w.attr(8, binary.NativeEndian.AppendUint64(nil, p.stats.TransmitBytes))
	w.attr(7, binary.NativeEndian.AppendUint64(nil, p.stats.ReceiveBytes))
	w.attr(10, binary.NativeEndian.AppendUint32(nil, 1))
	if e := p.stats.Endpoint; e.IsValid() {
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		if e.Addr().Is6() {
			binary.NativeEndian.PutUint16(b, unix.AF_INET6)
		}
		b = binary.BigEndian.AppendUint16(b, e.Port())
		if e.Addr().Is6() {
			b = append(b, 0, 0, 0, 0)
		}
		b = append(b, e.Addr().AsSlice()...)
		if e.Addr().Is6() {
			b = binary.NativeEndian.AppendUint32(b, p.scope)
		} else {
			b = append(b, make([]byte, 8)...)
		}
		w.attr(4, b)
	}
}

func (w *dumpWriter) allowed(p netip.Prefix) {
	if w.ip == 0 {
		w.nest(&w.ip, 9)
	}
	var one int
	w.nest(&one, 0)
	w.n++
	w.attr(3, []byte{byte(p.Bits())})
	family := uint16(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	w.attr(1, binary.NativeEndian.AppendUint16(nil, family))
	w.attr(2, p.Addr().AsSlice())
	w.unnest(&one)
}

func (w *dumpWriter) end() []byte {
	w.unnest(&w.ip)
	w.unnest(&w.one)
	w.unnest(&w.peers)
	return w.b
}

// fakeLinks knows the interfaces wan1, wan2, … by their number.
type fakeLinks struct{ kernel *fakeKernel }

func (l fakeLinks) remove(index int) error {
	l.kernel.mu.Lock()
	defer l.kernel.mu.Unlock()
	if index != fakeIndex {
		return errors.New("another link is to be removed")
	}
	l.kernel.gone = true
	return nil
}

func (fakeLinks) zone(index uint32) string { return "wan" + strconv.Itoa(int(index)) }

func (fakeLinks) scope(zone string) (uint32, error) {
	var n uint32
	if _, err := fmt.Sscanf(zone, "wan%d", &n); err != nil {
		return 0, errors.New("no such interface")
	}
	return n, nil
}

func (fakeLinks) close() {}

// fakeClock stands still until it is moved.
type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}
