package user

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sendTo runs Send against a kernel that answers as told, and returns the messages that went out as lists of the first
// bytes of their datagrams.
func sendTo(t *testing.T, datagrams []string, src string, kernel func(messages []string, sticky bool) error) (out []string, e *Endpoint, b *Bind, err error) {
	t.Helper()
	b = NewBind(BindOptions{})
	_, _, openErr := b.Open(0)
	must(t, openErr)
	t.Cleanup(func() { must(t, b.Close()) })
	b.write = func(_ *socket, t *batch, n int) (int, error) {
		for i := range n {
			var m strings.Builder
			for k := t.first[i]; k < t.first[i+1]; k++ {
				m.WriteString(string(*t.iovs[k].Base))
			}
			sticky := false
			if h := t.msgs[i].hdr; h.Control != nil {
				found, _ := parseControl(t.ctrl[i*txControl:][:h.Controllen])
				sticky = found.addr.IsValid()
			}
			if err := kernel([]string{m.String()}, sticky); err != nil {
				return i, err
			}
			out = append(out, m.String())
		}
		return n, nil
	}
	var bufs [][]byte
	for _, d := range datagrams {
		bufs = append(bufs, []byte(d))
	}
	e = newEndpoint(netip.MustParseAddrPort("192.0.2.9:9"))
	if src != "" {
		e.src.Store(&source{addr: netip.MustParseAddr(src), ifindex: 1})
	}
	err = b.Send(bufs, e)
	return out, e, b, err
}

func TestSendWhatTheKernelRefuses(t *testing.T) {
	// Three of two bytes and a shorter one, one of another size, two more.
	datagrams := []string{"aa", "bb", "cc", "d", "eeee", "ff", "gg"}
	merged := []string{"abcd", "ef", "g"} // "ff" is a legal short tail of "eeee", and so ends it
	single := []string{"a", "b", "c", "d", "e", "f", "g"}
	for name, tc := range map[string]struct {
		src    string
		kernel func(m string, sticky bool) error
		want   []string
		err    error
		gso    bool // still on afterwards
		source bool // still there afterwards
	}{
		"nothing": {kernel: func(string, bool) error { return nil }, want: merged, gso: true},
		"no checksum offload": {
			kernel: func(m string, _ bool) error { return when(len(m) > 1, unix.EIO) }, want: single,
		},
		"pieces beyond the MTU": {
			src: "192.0.2.1", kernel: func(m string, _ bool) error { return when(len(m) > 1, unix.EMSGSIZE) }, want: single, gso: true, source: true,
		},
		"pieces beyond the MTU, as older kernels say it": {
			src: "192.0.2.1", kernel: func(m string, _ bool) error { return when(len(m) > 1, unix.EINVAL) }, want: single, gso: true, source: true,
		},
		"source gone": {
			src: "192.0.2.1", kernel: func(_ string, sticky bool) error { return when(sticky, unix.ENETUNREACH) }, want: merged, gso: true,
		},
		"source gone, IPv4": {
			src: "192.0.2.1", kernel: func(_ string, sticky bool) error { return when(sticky, unix.EINVAL) }, want: single, gso: true,
		},
		"one datagram filtered": {
			kernel: func(m string, _ bool) error { return when(m == "ef", unix.EPERM) }, want: []string{"abcd", "g"}, err: unix.EPERM, gso: true,
		},
		"one datagram too big": {
			kernel: func(m string, _ bool) error { return when(len(m) > 1 || m == "e", unix.EMSGSIZE) },
			want:   []string{"a", "b", "c", "d", "f", "g"}, err: unix.EMSGSIZE, gso: true,
		},
		"no route": {
			src: "192.0.2.1", kernel: func(string, bool) error { return unix.ENETUNREACH }, err: unix.ENETUNREACH, gso: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, e, b, err := sendTo(t, datagrams, tc.src, func(m []string, sticky bool) error {
				if calls++; calls > 100 {
					t.Fatal("Send does not end")
				}
				return tc.kernel(m[0], sticky)
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("sent %q, want %q", got, tc.want)
			}
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			if b.v4.gso.Load() != tc.gso {
				t.Errorf("segmentation is on: %v, want %v", b.v4.gso.Load(), tc.gso)
			}
			if got := e.SrcIP().IsValid(); got != tc.source {
				t.Errorf("source kept: %v, want %v", got, tc.source)
			}
		})
	}
}

func when(yes bool, err error) error {
	if yes {
		return err
	}
	return nil
}
