package routes

import "net/netip"

// parent is the prefix one bit shorter.
func parent(p netip.Prefix) netip.Prefix {
	up, _ := p.Addr().Prefix(p.Bits() - 1)
	return up
}

// sibling is the other half of the prefix one bit shorter.
func sibling(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(flipBit(p.Addr(), p.Bits()-1), p.Bits())
}

// split returns both halves.
func split(p netip.Prefix) (low, high netip.Prefix) {
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(flipBit(p.Addr(), p.Bits()), p.Bits()+1)
}

func flipBit(a netip.Addr, bit int) netip.Addr {
	if a.Is4() {
		b := a.As4()
		b[bit/8] ^= 0x80 >> (bit % 8)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	b[bit/8] ^= 0x80 >> (bit % 8)
	return netip.AddrFrom16(b)
}
