package probe

// tries is how many packets of one size, and how many small ones between them, must be lost before that says anything.
const tries = 5

// search finds the largest packet that gets through, by bisection. It is pure: the Prober sends what it asks for, one
// packet at a time.
//
// A lost packet proves nothing: any may be lost. So a size counts as too large after it was lost some times in a row
// while the largest size known to get through did get through, in turn with it. And in the end the size that is taken for
// the first too large one is tried all over again.
type search struct {
	top       int // the device's MTU
	low, high int // low gets through; high does not, or is top+1
	trying    int
	control   bool // the packet under way is of size low
	lost      int  // in a row, of the size tried
	alive     int  // controls answered since
	dead      int  // controls lost since
	confirmed bool
	done      bool
	broken    bool
}

// newSearch looks between the size of an ordinary echo and the device's MTU.
func newSearch(small, top int) *search {
	s := &search{top: max(top, small), low: small, high: max(top, small) + 1}
	s.choose()
	return s
}

// size of the packet to send now.
func (s *search) size() int {
	if s.control {
		return s.low
	}
	return s.trying
}

// result says how that packet fared.
func (s *search) result(answered bool) {
	switch {
	case s.control && answered:
		s.alive++
		s.control = false
	case s.control:
		s.dead++
		s.control = false
	case answered:
		if s.trying >= s.high { // it was loss that made it look too large, and perhaps larger ones too
			s.high = s.top + 1
		}
		s.low, s.confirmed = s.trying, false
		s.choose()
		return
	default:
		s.lost++
		s.control = true
	}
	switch {
	case s.lost >= tries && s.alive > 0 && !s.control:
		s.confirmed = s.trying == s.high
		s.high = s.trying
		s.choose()
	case s.dead >= tries && s.alive == 0:
		s.done, s.broken = true, true
	}
}

// choose the next size: the whole MTU first, mostly the only one; then what IPv6 needs (RFC 8200 section 5); then halves.
func (s *search) choose() {
	const ipv6 = 1280
	s.lost, s.alive, s.dead, s.control = 0, 0, 0, false
	switch {
	case s.low+1 >= s.high && (s.high > s.top || s.confirmed):
		s.done = true
	case s.low+1 >= s.high:
		s.trying = s.high
	case s.high > s.top:
		s.trying = s.top
	case s.low < ipv6 && s.high > ipv6:
		s.trying = ipv6
	default:
		s.trying = (s.low + s.high) / 2
	}
}

// found is the result, once done: 0 if the path did not even carry small packets.
func (s *search) found() (mtu int, done bool) {
	if s.broken {
		return 0, s.done
	}
	return s.low, s.done
}
