package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// FirewallTable is the name of our table, of family inet. Other tables are not touched, and what they drop stays dropped.
const FirewallTable = "sitewire"

// FirewallConfig is what the table does.
type FirewallConfig struct {
	// BGPPort is the TCP port that only tunnels, LANNeighbours and this machine itself may connect to; 0 guards nothing.
	BGPPort       uint16
	TunnelDevices []string
	LANNeighbours []netip.Addr
	// ClampMSS makes TCP through tunnels fit: path MTU discovery fails too often (RFC 4459 section 3.2).
	ClampMSS bool
	// BFD drops single-hop BFD packets that came over more than one hop (RFC 5881 section 5).
	BFD bool
}

// FirewallError says that the kernel took no firewall. Everything else works without.
type FirewallError struct{ Err error }

func (e *FirewallError) Error() string { return "nftables: " + explain(e.Err).Error() }
func (e *FirewallError) Unwrap() error { return e.Err }

// SetFirewall replaces our table in one transaction: there is no moment without it.
func (h *Host) SetFirewall(ctx context.Context, c FirewallConfig) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	conn, err := nftables.New()
	missing := err == nil && h.wallMissing(conn)
	if err == nil {
		if err = build(conn, c); err == nil {
			err = h.count("table_replace", conn.Flush())
		}
	}
	h.mu.Lock()
	h.wallSet = err == nil
	h.mu.Unlock()
	if err != nil {
		return &FirewallError{err}
	}
	if missing {
		h.mended(func(m *Mended) { m.Rules++ }, "firewall table was missing", "table", FirewallTable)
	}
	return nil
}

// wallMissing tells whether somebody took the table that SetFirewall last put in place.
func (h *Host) wallMissing(conn *nftables.Conn) bool {
	h.mu.Lock()
	set := h.wallSet
	h.mu.Unlock()
	if !set {
		return false
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if h.count("table_list", err) != nil {
		return false // the replacement says what is wrong
	}
	return !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == FirewallTable })
}

// removeFirewall removes our table if it is there.
func (h *Host) removeFirewall(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	conn, err := nftables.New()
	if err == nil {
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable})
		err = h.count("table_delete", conn.Flush(), unix.ENOENT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP)
	}
	// A kernel without nftables has no table of ours.
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return &FirewallError{err}
}

// build puts the transaction into conn.
func build(conn *nftables.Conn, c FirewallConfig) error {
	// Adding what is there is fine, so the deletion always finds something.
	t := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable})
	conn.DelTable(t)
	t = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: FirewallTable})
	b := builder{conn: conn, table: t}

	var devices []nftables.SetElement
	for _, d := range c.TunnelDevices {
		devices = append(devices, nftables.SetElement{Key: ifname(d)})
	}
	tunnels := b.set("tunnels", nftables.TypeIFName, devices)
	if c.BGPPort != 0 || c.BFD {
		b.input(c, tunnels)
	}
	if c.ClampMSS {
		// Both directions: a SYN that comes out of a tunnel tells the far end how much we take.
		for _, hook := range []struct {
			name string
			hook *nftables.ChainHook
			keys []expr.MetaKey
		}{
			{"forward", nftables.ChainHookForward, []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME}},
			{"output", nftables.ChainHookOutput, []expr.MetaKey{expr.MetaKeyOIFNAME}},
		} {
			chain := b.chain(hook.name, hook.hook, nftables.ChainPriorityMangle)
			for _, key := range hook.keys {
				b.rule(chain, inSet(key, tunnels), clamp())
			}
		}
	}
	return b.err
}

// builder collects the first error.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

func (b *builder) set(name string, typ nftables.SetDatatype, elements []nftables.SetElement) *nftables.Set {
	s := &nftables.Set{Table: b.table, Name: name, KeyType: typ}
	if typ == nftables.TypeIFName {
		s.KeyByteOrder = binaryutil.NativeEndian // or nft(8) cannot print the names
	}
	if err := b.conn.AddSet(s, elements); b.err == nil {
		b.err = err
	}
	return s
}

func (b *builder) chain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{
		Table: b.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority, Policy: &accept,
	})
}

func (b *builder) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	r := &nftables.Rule{Table: b.table, Chain: chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	b.conn.AddRule(r)
}

// input guards BGP and BFD. "Return" leaves the decision to the other tables.
func (b *builder) input(c FirewallConfig, tunnels *nftables.Set) {
	input := b.chain("input", nftables.ChainHookInput, nftables.ChainPriorityFilter)
	if c.BGPPort != 0 {
		var four, six []nftables.SetElement
		for _, a := range c.LANNeighbours {
			if a = a.Unmap().WithZone(""); a.Is4() {
				four = append(four, nftables.SetElement{Key: a.AsSlice()})
			} else if a.Is6() {
				six = append(six, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		four4 := b.set("neighbours4", nftables.TypeIPAddr, four)
		six6 := b.set("neighbours6", nftables.TypeIP6Addr, six)
		guard := b.conn.AddChain(&nftables.Chain{Table: b.table, Name: "bgp"})
		b.rule(input, equal(protocol(), unix.IPPROTO_TCP), port(c.BGPPort), verdict(expr.VerdictJump, guard.Name))
		b.rule(guard, equal(meta(expr.MetaKeyIIFNAME), ifname("lo")...), verdict(expr.VerdictReturn, ""))
		b.rule(guard, inSet(expr.MetaKeyIIFNAME, tunnels), verdict(expr.VerdictReturn, ""))
		b.rule(guard, equal(family(), unix.NFPROTO_IPV4), lookup(payload(expr.PayloadBaseNetworkHeader, 12, 4), four4), verdict(expr.VerdictReturn, ""))
		b.rule(guard, equal(family(), unix.NFPROTO_IPV6), lookup(payload(expr.PayloadBaseNetworkHeader, 8, 16), six6), verdict(expr.VerdictReturn, ""))
		b.rule(guard, verdict(expr.VerdictDrop, ""))
	}
	if c.BFD {
		const bfdPort, ttl, hopLimit = 3784, 8, 7 // port and offsets in the headers
		b.rule(input, equal(family(), unix.NFPROTO_IPV4), equal(protocol(), unix.IPPROTO_UDP), port(bfdPort), unequal(payload(expr.PayloadBaseNetworkHeader, ttl, 1), 255), verdict(expr.VerdictDrop, ""))
		b.rule(input, equal(family(), unix.NFPROTO_IPV6), equal(protocol(), unix.IPPROTO_UDP), port(bfdPort), unequal(payload(expr.PayloadBaseNetworkHeader, hopLimit, 1), 255), verdict(expr.VerdictDrop, ""))
	}
}

// The expressions below work on register 1.

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: 1} }
func protocol() expr.Any             { return meta(expr.MetaKeyL4PROTO) }
func family() expr.Any               { return meta(expr.MetaKeyNFPROTO) }

func payload(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
}

func equal(load expr.Any, value ...byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func unequal(load expr.Any, value ...byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

// port matches the destination port of TCP or UDP.
func port(p uint16) []expr.Any {
	return equal(payload(expr.PayloadBaseTransportHeader, 2, 2), binary.BigEndian.AppendUint16(nil, p)...)
}

func lookup(load expr.Any, s *nftables.Set) []expr.Any {
	return []expr.Any{load, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func inSet(key expr.MetaKey, s *nftables.Set) []expr.Any { return lookup(meta(key), s) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// clamp lowers the maximum segment size of a SYN to what the routes of both directions carry: `tcp flags & (syn|rst) == syn tcp option maxseg
// size set rt mtu`. The kernel never raises it.
func clamp() []expr.Any {
	const flags, syn, rst, maxseg = 13, 0x02, 0x04, 2
	return append(equal(protocol(), unix.IPPROTO_TCP),
		payload(expr.PayloadBaseTransportHeader, flags, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: maxseg, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	)
}

// ifname is an interface name as the kernel compares it: 16 bytes, filled with zeros.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
