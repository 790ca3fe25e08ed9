package user

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"sitewire/topologies/netns/nstest"
)

// A process without CAP_SYS_ADMIN may not enter a namespace, not even its own: what is there already must not try.
func TestWithinOwnNamespaceTakesNoPrivilege(t *testing.T) {
	other := nstest.NS(t, "other")
	there, err := os.Open(other.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	var own, foreign error
	ran := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread has lost something
		if own = dropSysAdmin(); own != nil {
			return
		}
		here, err := currentNamespace()
		if err != nil {
			own = err
			return
		}
		defer here.Close()
		own = within(here, func() error { ran++; return nil })
		foreign = within(there, func() error { ran++; return nil })
	}()
	<-done
	if own != nil || ran != 1 {
		t.Errorf("in its own namespace: %v, ran %d times", own, ran)
	}
	if !errors.Is(foreign, unix.EPERM) {
		t.Errorf("in another namespace: %v, want EPERM: the thread still had the privilege, and this test says nothing", foreign)
	}
}

// dropSysAdmin takes CAP_SYS_ADMIN from the calling thread.
func dropSysAdmin() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	return unix.Capset(&hdr, &data[0])
}
