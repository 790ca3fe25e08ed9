package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sitewire/topologies/netns"
)

// programEnv names an executable to test instead of building one: where there is no Go, as in a guest.
const programEnv = "SITEWIRE_TEST_PROGRAM"

// program is the executable under test, built once. It has the race detector if the tests have it. Where nothing can be built, the environment
// says where it is.
var program = os.Getenv("SITEWIRE_TEST_PROGRAM")

func TestMain(m *testing.M) {
	if err := netns.Enter(); err != nil {
		if _, ok := errors.AsType[*netns.Unavailable](err); !ok {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
		os.Exit(m.Run()) // every test says why it skips
	}
	udpMain(os.Args)
	if program != "" {
		os.Exit(m.Run())
	}
	code := run(m)
	beside.print(os.Stdout)
	os.Exit(code)
}

func run(m *testing.M) int {
	if program = os.Getenv(programEnv); program != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "sitewire-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "sitewire")
	args := []string{"build", "-o", program}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "sitewire/cmd/sitewire")...)
	cmd.Env = append(os.Environ(), "GOPROXY=off") // the lab has no way out
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
