package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns"
)

// The words that make this test program a generator or a sink of datagrams instead, so that each is a process of its own:
//
//	udp-send SOURCE DESTINATION PACKETS/S SPAN    0 packets/s is as fast as it goes
//	udp-sink ADDRESS                              ends when nothing comes any more
const (
	sendWord = "udp-send"
	sinkWord = "udp-sink"
)

const (
	udpBytes = 64 // of payload
	// udpBurst is how many datagrams go with one system call; at a steady rate half as many, every third of a millisecond.
	udpBurst, udpSteadyBurst = 64, 32
	udpPort                  = 7000
	udpBuffer                = 8 << 20
	// udpNap is how long the sink sleeps when it has read all there is, so that it costs the machine little.
	udpNap = time.Millisecond
	// udpSilence ends a sink that has received something, udpPatience one that has not.
	udpSilence, udpPatience = 300 * time.Millisecond, 10 * time.Second
)

// udpCount is what a generator sent or a sink received.
type udpCount struct {
	Packets int
	Span    time.Duration // first to last
}

// udpMain is the generator or the sink, if the arguments ask for one.
func udpMain(args []string) {
	if len(args) < 2 || args[1] != sendWord && args[1] != sinkWord {
		return
	}
	count, err := udpCount{}, fmt.Errorf("want %s or %s with their arguments, got %q", sendWord, sinkWord, args[1:])
	switch {
	case args[1] == sendWord && len(args) == 6:
		count, err = udpSend(args[2], args[3], args[4], args[5])
	case args[1] == sinkWord && len(args) == 3:
		count, err = udpSink(args[2])
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(count)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// udpMessage is struct mmsghdr of sendmmsg(2).
type udpMessage struct {
	hdr unix.Msghdr
	n   uint32
}

// udpMessages are n messages with a buffer each.
func udpMessages(n int) []udpMessage {
	msgs, iovs, data := make([]udpMessage, n), make([]unix.Iovec, n), make([]byte, n*udpBytes)
	for i := range msgs {
		iovs[i].Base = &data[i*udpBytes]
		iovs[i].SetLen(udpBytes)
		msgs[i].hdr.Iov = &iovs[i]
		msgs[i].hdr.SetIovlen(1)
	}
	return msgs
}

// udpCall sends or receives messages and returns how many.
func udpCall(call uintptr, fd int, msgs []udpMessage, flags int) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func udpSocket(address string, port int) (int, error) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: a.As4()})
}

func udpSend(from, to, rate, span string) (c udpCount, err error) {
	pace, err := strconv.Atoi(rate)
	if err != nil {
		return c, err
	}
	last, err := time.ParseDuration(span)
	if err != nil {
		return c, err
	}
	a, err := netip.ParseAddr(to)
	if err != nil {
		return c, err
	}
	fd, err := udpSocket(from, 0)
	if err != nil {
		return c, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: udpPort, Addr: a.As4()}); err != nil {
		return c, err
	}
	msgs := udpMessages(udpBurst)
	for begin := time.Now(); ; {
		if c.Span = time.Since(begin); c.Span >= last {
			return c, nil
		}
		n := udpBurst
		if pace > 0 {
			due := int(float64(pace)*c.Span.Seconds()) - c.Packets
			if due < udpSteadyBurst {
				nap := unix.NsecToTimespec(int64(udpSteadyBurst-due) * int64(time.Second) / int64(pace))
				_ = unix.Nanosleep(&nap, nil) // woken early, it looks at the time again
				continue
			}
			n = min(due, udpBurst)
		}
		n, err := udpCall(unix.SYS_SENDMMSG, fd, msgs[:n], 0)
		if err != nil {
			return c, fmt.Errorf("send: %w", err)
		}
		c.Packets += n
	}
}

func udpSink(at string) (c udpCount, err error) {
	fd, err := udpSocket(at, udpPort)
	if err != nil {
		return c, err
	}
	// Forced where the process may, else as far as net.core.rmem_max goes.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
	fmt.Println(`"ready"`)
	msgs := udpMessages(4 * udpBurst)
	var first, last time.Time
	for begin := time.Now(); ; {
		n, err := udpCall(unix.SYS_RECVMMSG, fd, msgs, unix.MSG_DONTWAIT)
		now := time.Now()
		switch {
		case err == nil && c.Packets == 0:
			first, last, c.Packets = now, now, n
		case err == nil:
			last, c.Packets = now, c.Packets+n
		case err != unix.EAGAIN && err != unix.EINTR:
			return c, fmt.Errorf("receive: %w", err)
		case c.Packets > 0 && now.Sub(last) > udpSilence:
			c.Span = last.Sub(first)
			return c, nil
		case now.Sub(begin) > udpPatience:
			return c, fmt.Errorf("no datagram in %v", udpPatience)
		}
		if n < len(msgs) {
			time.Sleep(udpNap)
		}
	}
}

// udpLoad sends datagrams from one end to the other and returns what both counted.
func udpLoad(t testing.TB, ends [2]*site, pace int, span time.Duration) (sent, received udpCount) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	start := func(n *netns.NS, args ...string) (*exec.Cmd, *json.Decoder) {
		cmd := n.Command(t.Context(), self, args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		return cmd, json.NewDecoder(out)
	}
	from, to := ends[0].host4.String(), ends[1].host4.String()
	sink, got := start(ends[1].ns, sinkWord, to)
	var ready string
	if err := got.Decode(&ready); err != nil || ready != "ready" {
		t.Fatalf("the sink said %q: %v", ready, err)
	}
	sender, gave := start(ends[0].ns, sendWord, from, to, strconv.Itoa(pace), span.String())
	must(t, gave.Decode(&sent))
	must(t, sender.Wait())
	must(t, got.Decode(&received))
	must(t, sink.Wait())
	return sent, received
}
