package lab

import (
	"strings"
	"testing"
)

// TestCheckRunning: `lab check` looks at a lab that runs and leaves it running; one that does not run is named, with what to do.
func TestCheckRunning(t *testing.T) {
	b := newBox(t)
	if _, errs, code := b.run("check", "pair"); code == 0 || !strings.Contains(errs, "sitewire lab up pair") {
		t.Errorf("before it is up: exit code %d: %s", code, errs)
	}
	if _, errs, code := b.run("check", "pair", "--engine", "false"); code == 0 || !strings.Contains(errs, "make -C containerlab deploy LAB=pair") {
		t.Errorf("with an engine that has no such container: exit code %d: %s", code, errs)
	}
	b.must("up", "pair")
	for range 2 {
		if out := b.must("check", "pair"); strings.Count(out, "ok  ") < 4 {
			t.Errorf("lab check: %s", out)
		}
	}
	b.must("down", "pair")
	b.clean("after check", true)
}
