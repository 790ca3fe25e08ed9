package probe

import (
	"context"
	"time"
)

// wire returns the socket of a family, opened if it is not; nil if it cannot be, which is logged once.
func (p *Prober) wire(ctx context.Context, v6 bool, now time.Time) Wire {
	i := family(v6)
	l := &p.lines[i]
	if l.wire != nil || now.Before(l.retry) {
		return l.wire
	}
	l.retry = now.Add(reopenEvery)
	w, err := p.open(v6)
	was := *p.trouble.Load()
	switch {
	case err != nil && (was[i] == nil || was[i].Error() != err.Error()):
		p.log.Warn("tunnels are not probed", "error", err)
	case err == nil && was[i] != nil:
		p.log.Info("tunnels are probed again")
	}
	was[i] = err
	p.trouble.Store(&was)
	if err != nil {
		return nil
	}
	l.wire = w
	go p.listen(ctx, w)
	return w
}

// listen hands on the answers until the socket is closed.
func (p *Prober) listen(ctx context.Context, w Wire) {
	for {
		r, err := w.Receive()
		if err != nil {
			return
		}
		select {
		case p.heard <- heard{r, p.now()}:
		case <-ctx.Done():
			return
		}
	}
}

// release closes the sockets of families that nobody needs any more, with the trouble about them.
func (p *Prober) release() {
	var needed [2]bool
	for _, t := range p.targets {
		if t.probed() {
			needed[family(t.Remote.Is6())] = true
		}
	}
	for i := range p.lines {
		if !needed[i] {
			p.hangUp(i)
		}
	}
}

func (p *Prober) hangUp(i int) {
	if w := p.lines[i].wire; w != nil {
		_ = w.Close() // nothing was written that could get lost
	}
	p.lines[i] = line{}
	if was := *p.trouble.Load(); was[i] != nil {
		was[i] = nil
		p.trouble.Store(&was)
	}
}

func family(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}
