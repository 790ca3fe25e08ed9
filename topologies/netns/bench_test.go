package netns_test

import (
	"fmt"
	"testing"

	"sitewire/topologies/netns"
	"sitewire/topologies/netns/nstest"
)

// What a lab costs: the figures that decide how many sites a test may have.

func BenchmarkNamespace(b *testing.B) {
	nstest.Need(b)
	for b.Loop() {
		n, err := netns.New("bench")
		if err != nil {
			b.Fatal(err)
		}
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLink(b *testing.B) {
	left, right := nstest.NS(b, "left"), nstest.NS(b, "right")
	i := 0
	for b.Loop() {
		i++
		if err := netns.Link(left, fmt.Sprint("l", i), right, fmt.Sprint("r", i), netns.LinkOpts{}); err != nil {
			b.Fatal(err)
		}
		if err := left.DelLink(fmt.Sprint("l", i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommand(b *testing.B) {
	n := nstest.NS(b, "bench")
	for b.Loop() {
		nstest.Run(b, n, "true")
	}
}

func BenchmarkDo(b *testing.B) {
	n := nstest.NS(b, "bench")
	for b.Loop() {
		if err := n.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
