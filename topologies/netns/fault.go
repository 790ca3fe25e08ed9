package netns

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Direction says which packets of a device a fault meets, as its own namespace sees them.
type Direction int

// The directions.
const (
	In Direction = 1 << iota
	Out
	Both = In | Out
)

// Faults sit in one nftables table of the netdev family, where they meet every frame (ARP too), before and after all other rules.
// A device has one chain for each direction, and the last fault put on it is the one that acts.
const faultTable = "sitewire_fault"

// Cut drops everything. The link stays up, so neither end is told: a silent death, and with In or Out a one-way one.
// For a cable that is pulled out, use Down.
func (n *NS) Cut(dev string, dir Direction) error { return n.fault(dev, dir, cut()) }

// Loss drops that many packets of a hundred, at random.
func (n *NS) Loss(dev string, dir Direction, percent int) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("loss on %s/%s: %d is not a percentage", n, dev, percent)
	}
	return n.fault(dev, dir, loss(float64(percent)))
}

// Hole drops packets longer than that many bytes (IP header included) and sends no ICMP error: a path MTU black hole.
func (n *NS) Hole(dev string, dir Direction, bytes int) error { return n.fault(dev, dir, hole(bytes)) }

// Which packets a fault meets.

func cut() []expr.Any { return nil }

func loss(percent float64) []expr.Any {
	const parts = 1e6
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: parts, Type: 1}, // 1: random
		toNetworkOrder(),
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(percent * parts / 100))},
	}
}

func hole(bytes int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
		toNetworkOrder(),
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(bytes))},
	}
}

// toNetworkOrder: nftables compares bytes, so numbers have to have the highest first.
func toNetworkOrder() expr.Any {
	return &expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4}
}

// fault drops what meets any of the matches, from now on and instead of what was dropped before; the kernel changes all at once.
func (n *NS) fault(dev string, dir Direction, matches ...[]expr.Any) error {
	// The kernel's answer to a device that is not there does not say so.
	if _, err := n.link(dev); err != nil {
		return err
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(n.fd)))
	if err != nil {
		return fmt.Errorf("fault on %s/%s: %w", n, dev, err)
	}
	table := c.AddTable(&nftables.Table{Name: faultTable, Family: nftables.TableFamilyNetdev})
	for _, h := range []struct {
		dir  Direction
		hook *nftables.ChainHook
	}{{In, nftables.ChainHookIngress}, {Out, nftables.ChainHookEgress}} {
		if dir&h.dir == 0 {
			continue
		}
		chain := c.AddChain(&nftables.Chain{
			Name: chainName(dev, h.dir), Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: h.hook, Priority: nftables.ChainPriorityRef(-500), Device: dev,
		})
		c.FlushChain(chain)
		for _, match := range matches {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match[:len(match):len(match)],
				&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("fault on %s/%s: %w", n, dev, err)
	}
	return nil
}

// Heal takes every fault off a device. A device without faults is fine.
func (n *NS) Heal(dev string) error { return n.heal(dev, Both) }

func (n *NS) heal(dev string, dir Direction) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(n.fd)))
	if err != nil {
		return fmt.Errorf("heal %s/%s: %w", n, dev, err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return fmt.Errorf("heal %s/%s: %w", n, dev, err)
	}
	for _, chain := range chains {
		if chain.Table.Name == faultTable && (dir&In != 0 && chain.Name == chainName(dev, In) || dir&Out != 0 && chain.Name == chainName(dev, Out)) {
			c.FlushChain(chain) // a chain with rules cannot be deleted
			c.DelChain(chain)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("heal %s/%s: %w", n, dev, err)
	}
	return nil
}

func chainName(dev string, dir Direction) string {
	if dir == In {
		return "in_" + strings.ReplaceAll(dev, "/", "_")
	}
	return "out_" + strings.ReplaceAll(dev, "/", "_")
}
