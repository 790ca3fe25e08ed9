package fib

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sitewire/routes"
)

// batch collects the messages of one sendmsg.
type batch struct {
	buf  []byte
	reqs []request
	done []request // those before, whose room is reused
	// cleaning are the prefixes that have something to delete once the batch has gone through.
	cleaning map[netip.Prefix]bool
	onlink   map[nexthop]bool // answers of needsOnlink during one Write
	absent   map[string]bool  // devices that the kernel does not have, during one Write
	shared   map[string]shared
	single   routes.Hop // the one that single hops were asked for last, during one Write; hops is what it is in the kernel's terms
	hops     []nexthop
	key      []byte // of shared

	maxReqs, maxBytes int
}

// request is one message of a batch.
type request struct {
	op    int // index of the operation that it belongs to
	row   row
	del   bool
	after []row // to be deleted after success
	start int   // offset in the buffer
	err   error
}

const (
	// answerRoom is more than the kernel charges a socket for one error message, in bytes, so that all answers to a batch always fit.
	answerRoom = 2048
	batchReqs  = 1024
	batchBytes = 64 << 10
	// longest is more than the size of a message with as many hops as anybody has.
	longest = 4096
)

// limit sizes the batches: a message for each answer that fits, and never more than the socket sends at once.
func (b *batch) limit(c *conn) {
	b.maxReqs = max(1, min(batchReqs, c.rcvbuf/answerRoom))
	b.maxBytes = min(batchBytes, c.sndbuf/2)
	b.buf = make([]byte, 0, b.maxBytes+longest)
	b.cleaning, b.onlink, b.absent = map[netip.Prefix]bool{}, map[nexthop]bool{}, map[string]bool{}
	b.shared = map[string]shared{}
}

func (b *batch) reset() {
	b.buf, b.reqs = b.buf[:0], b.reqs[:0]
	clear(b.cleaning)
	clear(b.onlink)
	clear(b.absent)
	clear(b.shared)
	b.single, b.hops = routes.Hop{}, nil
}

func (b *batch) full() bool { return len(b.reqs) >= b.maxReqs || len(b.buf) >= b.maxBytes }

func (b *batch) add(op int, r row, typ, flags uint16, after []row) {
	b.reqs = append(b.reqs, request{op: op, row: r, del: typ == unix.RTM_DELROUTE, after: after, start: len(b.buf)})
	b.buf = r.append(b.buf, typ, flags, 0)
	if len(after) > 0 {
		b.cleaning[r.dst] = true
	}
}

// needsOnlink tells whether the kernel must be told not to look for the gateway among the connected networks.
func (b *batch) needsOnlink(v *view, n nexthop) bool {
	if !n.via.IsValid() || n.via.IsLinkLocalUnicast() && n.via.Is6() {
		return false
	}
	on, known := b.onlink[n]
	if !known {
		v.with(func(s *state) { on = !s.onLink(n.index, n.via) })
		b.onlink[n] = on
	}
	return on
}

// exchange sends the requests, whose messages lie one after the other in buf, and fills in their errors. The error returned is about the
// socket and so about all of them.
//
// Only failures are answered, but for the last message, which is always acknowledged: when that answer is there, silence means success.
func (c *conn) exchange(buf []byte, reqs []request) error {
	base := c.seq + 1
	c.seq += uint32(len(reqs))
	for i := range reqs {
		setSeq(buf, reqs[i].start, base+uint32(i))
		reqs[i].err = nil
	}
	last := len(reqs) - 1
	addFlags(buf, reqs[last].start, unix.NLM_F_ACK)

	if err := c.file.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	err := c.send(buf[reqs[0].start:])
	if err == nil {
		err = c.answers(base, reqs)
	}
	if (errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE)) && len(reqs) > 1 {
		// Too much at once, or answers were lost. All requests may be repeated.
		half := len(reqs) / 2
		end := reqs[half].start
		if err := c.exchange(buf[:end], reqs[:half]); err != nil {
			return err
		}
		return c.exchange(buf, reqs[half:])
	}
	if err != nil {
		return fmt.Errorf("write to the kernel: %w", err)
	}
	return nil
}

// answers reads until the acknowledgement of the last request.
func (c *conn) answers(base uint32, reqs []request) error {
	for {
		b, err := c.recv()
		if err != nil {
			return err
		}
		for h, body := range messages(b) {
			i := int(h.seq - base)
			if h.typ != unix.NLMSG_ERROR || i < 0 || i >= len(reqs) {
				continue // an answer to something older
			}
			reqs[i].err = answer(h, body)
			if i == len(reqs)-1 {
				return nil
			}
		}
	}
}
