package rpki

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Timers of RFC 8210 section 6, for caches that say nothing, and the limits of what they may say.
const (
	defaultRefresh = 3600 * time.Second
	defaultExpire  = 7200 * time.Second
	minRefresh     = time.Second
	maxRefresh     = 86400 * time.Second
	minExpire      = 600 * time.Second
	maxExpire      = 172800 * time.Second
)

// Patience with a cache, and the delays between attempts, doubling. The protocol's retry interval (600 s) is how long a
// cache wants to be left alone when it refuses; the connection to a dead one may be tried far more often.
const (
	dialTimeout     = 10 * time.Second
	exchangeTimeout = 60 * time.Second
	firstRetry      = time.Second
	lastRetry       = time.Minute
)

// client is the router's side of RTR with one cache. It remembers what it has between connections.
// Owner: the goroutine of its source.
type client struct {
	address string
	dial    func(context.Context, string) (net.Conn, error)
	// refresh asked for by the operator; 0 leaves it to the cache. expire likewise.
	refresh, expire time.Duration
	// learned is told whole new tables; a table that did not change is told too: it is fresh.
	learned func(result)

	version uint8
	synced  bool // session, serial and have are those of the cache
	session uint16
	serial  uint32
	have    []VRP
	at      time.Time // of the last End of Data
	lasts   time.Duration
	every   time.Duration // between queries
	skipped int           // bad rows among have, and since
	newer   bool          // the cache notified of a serial that its response did not reach
}

// result is what a cache said in one response.
type result struct {
	vrps    []VRP // sorted
	serial  uint32
	session uint16
	version uint8
	skipped int           // rows that made no sense
	expire  time.Duration // after which they must not be used any more
}

// Errors of sessions that say how to go on.
var (
	errReset     = errors.New("the cache does not know our serial any more")
	errDowngrade = errors.New("the cache does not speak version 1")
	errNoData    = errors.New("the cache has no data yet")
)

// run keeps a session until ctx ends. failed is told why one ended.
func (c *client) run(ctx context.Context, failed func(error)) {
	c.version = version1
	for delay := firstRetry; ctx.Err() == nil; {
		before := c.at
		err := c.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errDowngrade) {
			c.version, c.synced = version0, false
			continue
		}
		failed(err)
		if c.at != before {
			delay = firstRetry
		} else if !c.synced {
			c.version = version1 // it may have been silent for another reason
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastRetry)
	}
}

// connect runs one session. It does not return without an error.
func (c *client) connect(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := c.dial(dialing, c.address)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if c.synced && time.Since(c.at) > c.lasts {
		c.synced, c.have = false, nil // what we have is no base any more
	}
	err = c.converse(conn, bufio.NewReaderSize(conn, 1<<15))
	if c.version == version1 && !c.synced && (errors.Is(err, io.EOF) || errors.Is(err, errMalformed)) {
		return fmt.Errorf("%w (%w)", errDowngrade, err) // old caches hang up, or answer nonsense
	}
	if errors.Is(err, errMalformed) {
		c.report(conn, errCorruptData, err.Error())
		c.synced = false
	}
	return err
}

// converse queries at once, and then whenever the cache notifies or the refresh interval has passed.
func (c *client) converse(conn net.Conn, r *bufio.Reader) error {
	for first := true; ; first = false {
		if !first {
			if err := c.await(conn, r); err != nil {
				return err
			}
		}
		err := c.exchange(conn, r)
		if errors.Is(err, errReset) {
			c.synced = false
			err = c.exchange(conn, r)
		}
		if err != nil {
			return err
		}
	}
}

// await returns when it is time to query: after a Serial Notify, or when the refresh interval has passed.
func (c *client) await(conn net.Conn, r *bufio.Reader) error {
	if c.newer {
		return nil
	}
	if err := conn.SetReadDeadline(time.Now().Add(c.every)); err != nil {
		return err
	}
	if _, err := r.Peek(1); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	} else if err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	p, err := c.read(r)
	switch {
	case err != nil:
		return err
	case p.kind == serialNotify:
		return nil
	}
	return fmt.Errorf("%w: type %d between responses", errMalformed, p.kind)
}

// read reads a PDU, and turns error reports into errors.
func (c *client) read(r io.Reader) (pdu, error) {
	p, err := readPDU(r)
	switch {
	case err != nil:
		return p, err
	case p.kind == errorReport && p.session == errUnsupportedVersion && c.version != version0:
		return p, errDowngrade
	case p.kind == errorReport && p.session == errNoDataAvailable:
		return p, errNoData
	case p.kind == errorReport:
		c.synced = false
		return p, fmt.Errorf("the cache reports error %d: %.200q", p.session, p.text)
	case p.version != c.version && p.version == version0 && !c.synced:
		c.version = version0 // RFC 8210 section 7: the answer decides
	case p.version != c.version:
		return p, fmt.Errorf("%w: version %d in a session of version %d", errMalformed, p.version, c.version)
	}
	return p, nil
}

// exchange sends a query and takes the response.
func (c *client) exchange(conn net.Conn, r io.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return err
	}
	query := pdu{version: c.version, kind: resetQuery}
	if c.synced {
		query.kind, query.session, query.serial = serialQuery, c.session, c.serial
	}
	if _, err := conn.Write(query.append(nil)); err != nil {
		return err
	}
	c.newer = false
	begin, err := c.read(r)
	for err == nil && begin.kind == serialNotify { // sent before it saw our query
		begin, err = c.read(r)
	}
	switch {
	case err != nil:
		return err
	case begin.kind == cacheReset && c.synced:
		return errReset
	case begin.kind != cacheResponse:
		return fmt.Errorf("%w: type %d in answer to a query", errMalformed, begin.kind)
	case c.synced && begin.session != c.session:
		c.synced = false
		return errors.New("the cache answers for another session: it was restarted")
	}
	return c.response(conn, r, begin.session)
}

// response takes what follows a Cache Response, up to End of Data.
func (c *client) response(conn net.Conn, r io.Reader, session uint16) error {
	var list []VRP
	delta := map[VRP]bool{}
	var notified *uint32
	if !c.synced {
		c.skipped = 0
	}
	for n := 0; ; n++ {
		if n%4096 == 0 { // a long table takes its time; a cache that falls silent does not get more of it
			if err := conn.SetReadDeadline(time.Now().Add(exchangeTimeout)); err != nil {
				return err
			}
		}
		p, err := c.read(r)
		switch {
		case err != nil:
			return err
		case p.kind == routerKey: // of BGPsec
		case p.kind == serialNotify:
			notified = &p.serial
		case p.kind == endOfData && p.session == session:
			if !c.synced {
				c.have = sorted(list)
			} else if c.have, err = patch(c.have, delta); err != nil {
				return err
			}
			c.newer = notified != nil && *notified != p.serial
			c.done(p, session)
			return nil
		case p.kind != ipv4Prefix && p.kind != ipv6Prefix:
			return fmt.Errorf("%w: type %d in a response", errMalformed, p.kind)
		case p.bad != nil:
			c.skipped++
		case c.synced:
			delta[p.vrp] = p.announce
		case !p.announce:
			return fmt.Errorf("%w: withdrawal in a response to a reset query", errMalformed)
		default:
			list = append(list, p.vrp)
		}
		if len(list) > MaxVRPs || len(delta) > MaxVRPs {
			return errTooMany
		}
	}
}

// done notes a whole response.
func (c *client) done(end pdu, session uint16) {
	c.session, c.serial, c.synced, c.at = session, end.serial, true, time.Now()
	c.every, c.lasts = defaultRefresh, defaultExpire
	if end.version != version0 {
		c.every = min(clamp(end.refresh, minRefresh, maxRefresh), defaultRefresh) // so that an old answer means a broken cache
		c.lasts = max(clamp(end.expire, minExpire, maxExpire), c.every+minRefresh)
	}
	if c.refresh != 0 {
		c.every = c.refresh
	}
	if c.expire != 0 {
		c.lasts = c.expire
	}
	c.learned(result{vrps: c.have, serial: c.serial, session: session, version: c.version, skipped: c.skipped, expire: c.lasts})
}

func clamp(seconds uint32, low, high time.Duration) time.Duration {
	return min(max(time.Duration(seconds)*time.Second, low), high)
}

// patch applies the changes of a Serial Query's response. Payloads that should be there and are not, or the other way
// round, mean that the two ends disagree: then everything is asked for again.
func patch(have []VRP, delta map[VRP]bool) ([]VRP, error) {
	if len(delta) == 0 {
		return have, nil
	}
	out := make([]VRP, 0, len(have)+len(delta))
	known := 0
	for _, v := range have {
		announce, ok := delta[v]
		if ok {
			known++
		}
		if !ok || announce {
			out = append(out, v)
		}
	}
	before := len(out)
	withdrawn := len(have) - before
	for v, announce := range delta {
		if announce {
			out = append(out, v)
		}
	}
	out = sorted(out)
	announced := 0
	for _, announce := range delta {
		if announce {
			announced++
		}
	}
	// Every withdrawal must have hit, and no announcement may have been there.
	if withdrawn != len(delta)-announced || known != withdrawn {
		return nil, errReset
	}
	if len(out) > MaxVRPs {
		return nil, errTooMany
	}
	return out, nil
}

// report tells the cache why the session ends, as far as it still listens.
func (c *client) report(conn net.Conn, code uint16, text string) {
	p := pdu{version: c.version, kind: errorReport, session: code, text: text}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write(p.append(nil))
}
