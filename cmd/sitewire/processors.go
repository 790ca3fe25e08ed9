package main

import "runtime"

// processorsEach is for how many goroutines at once Go's scheduler has places, for each processor that it would use.
//
// What comes in, a packet in a tunnel or one of BFD, makes a goroutine ready to run. If all places are taken by goroutines that have much to
// do, and those wake each other, it waits in a queue that is looked at every 61 turns, of up to 10 ms each: with two neighbours that send
// 300,000 routes, on two processors, tunnels and BFD stood still for 450 to 600 ms each time the garbage collector worked, and sessions with
// BFD at 200 ms x 3 were lost. With places to spare it runs at once, and the kernel shares the processors out.
const processorsEach = 4

// spareProcessors makes places to spare, unless somebody chose how many there are (GOMAXPROCS).
func spareProcessors(chosen string) {
	if chosen == "" {
		runtime.SetDefaultGOMAXPROCS()
		runtime.GOMAXPROCS(processorsEach * runtime.GOMAXPROCS(0))
	}
}
