package fib

import (
	"testing"

	"sitewire/topologies/netns/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
