package netns_test

import (
	"os"
	"testing"

	"sitewire/topologies/netns/nstest"
)

// A node sees its own files where it has been given some, the machine's where nobody hides them, and the machine sees nothing of it.
func TestPutEtc(t *testing.T) {
	n, other := nstest.NS(t, "etc"), nstest.NS(t, "etc-other")
	for _, dir := range []string{"bird", "frr", "sitewire", "wireguard"} {
		file := "/etc/" + dir + "/sub/of-the-lab"
		if err := n.PutEtc(file, []byte(dir)); err != nil {
			t.Fatal(err)
		}
		if got := nstest.Run(t, n, "cat", file); got != dir {
			t.Errorf("%s reads %q", file, got)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is on the machine too", file)
		}
	}
	want, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	if got := nstest.Run(t, n, "cat", "/etc/passwd"); got != string(want) {
		t.Errorf("/etc/passwd reads %q", got)
	}
	if got := nstest.Run(t, other, "sh", "-c", "ls /etc/bird /etc/sitewire 2>/dev/null || true"); got != "" && got != "/etc/bird:\n" {
		t.Errorf("another namespace has %q", got)
	}
	for _, file := range []string{"/etc/passwd", "/etc/bird", "/etc/bird/../passwd", "bird/x"} {
		if n.PutEtc(file, nil) == nil {
			t.Errorf("%s was taken", file)
		}
	}
}
