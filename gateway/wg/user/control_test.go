package user

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// echo stands in for wireguard-go's handler, which ends when the connection does, and closes it.
func echo(c net.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = io.WriteString(c, "hello")
	must(t, err)
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("answer %q, %v", b, err)
	}
	return c
}

// noFiles fails if the directory has other files than the ones named.
func noFiles(t *testing.T, dir string, but ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(but) || len(but) > 0 && got[0] != but[0] {
		t.Errorf("files %v, want %v", got, but)
	}
}

func TestControlServesAndLeavesNothing(t *testing.T) {
	noLeak(t)
	dir := filepath.Join(t.TempDir(), "made", "on", "demand")
	c, err := listenControl(dir, "wg0", echo)
	must(t, err)
	path := filepath.Join(dir, "wg0.sock")
	noFiles(t, dir, "wg0.sock")
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	open := dial(t, path)
	dial(t, path)
	must(t, c.close())
	noFiles(t, dir)
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the socket")
	}
}

// What a killed process leaves behind is replaced.
func TestControlReplacesStaleSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wg0.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	c, err := listenControl(dir, "wg0", echo)
	must(t, err)
	dial(t, path)
	must(t, c.close())
	noFiles(t, dir)
}

// A socket that answers, and a file that is no socket, are left alone.
func TestControlTakesNothingInUse(t *testing.T) {
	dir := t.TempDir()
	first, err := listenControl(dir, "wg0", echo)
	must(t, err)
	if _, err := listenControl(dir, "wg0", echo); err == nil {
		t.Fatal("a socket in use was taken over")
	}
	dial(t, filepath.Join(dir, "wg0.sock"))
	must(t, first.close())
	must(t, os.WriteFile(filepath.Join(dir, "wg0.sock"), []byte("precious"), 0o600))
	if _, err := listenControl(dir, "wg0", echo); err == nil {
		t.Fatal("a file was taken over")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "wg0.sock")); err != nil || string(b) != "precious" {
		t.Errorf("the file changed: %q, %v", b, err)
	}
	noFiles(t, dir, "wg0.sock")
}

// A socket that somebody else put in our place is not removed.
func TestControlRemovesOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wg0.sock")
	c, err := listenControl(dir, "wg0", echo)
	must(t, err)
	must(t, os.Remove(path))
	other, err := listenControl(dir, "wg0", echo)
	must(t, err)
	must(t, c.close())
	dial(t, path)
	must(t, other.close())
	noFiles(t, dir)
}
