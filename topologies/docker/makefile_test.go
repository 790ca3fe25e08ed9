package docker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sitewire/topologies/netns/nstest"
)

// runMake runs containerlab/Makefile with programs that only say what they were asked.
func runMake(t *testing.T, containerlab string, args ...string) (string, error) {
	t.Helper()
	nstest.Need(t, nstest.Program("make"))
	bin := t.TempDir()
	for name, script := range map[string]string{"engine": `echo "engine $*"`, "containerlab": "echo \"containerlab $*\"\n" + containerlab} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "make", append([]string{
		"--silent", "-C", labsDir, "ENGINE=" + filepath.Join(bin, "engine"), "CONTAINERLAB=" + filepath.Join(bin, "containerlab"), "GO=true",
	}, args...)...)
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// containerlab goes on after an exec that failed, and exits with 0: `make deploy` must not.
func TestMakeDeploy(t *testing.T) {
	for _, c := range []struct {
		name, script string
		fails        bool
	}{
		{"well", "exit 0", false},
		{"failed", "exit 3", true},
		{"failed exec, 0.60", `echo 'time="2026-01-01" level=error msg="Failed to execute command \"x\" on the node \"fra\". rc=1,"'`, true},
		{"failed exec, later", `printf '12:00:00 \033[31mERRO\033[0m Failed to execute command command="x" node=fra rc=1\n' >&2`, true},
		{"the word alone", `echo 'INFO Executed command stdout="0 ERRORS, 0 errors"'`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := runMake(t, c.script, "deploy", "LAB=dn42")
			if (err != nil) != c.fails {
				t.Errorf("%v: %s", err, out)
			}
			if !strings.Contains(out, "containerlab deploy --topo dn42/dn42.clab.yml\n") {
				t.Errorf("it ran: %s", out)
			}
		})
	}
}

func TestMakeTargets(t *testing.T) {
	out, err := runMake(t, "", "images", "SITEWIRE_IMAGE=a:1", "HOST_IMAGE=b:2")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		"build --file images/sitewire/Dockerfile --tag a:1 images",
		"build --file images/host/Dockerfile --tag b:2 --build-arg SITEWIRE_IMAGE=a:1 ",
		"build --file images/bird/Dockerfile --tag sitewire-bird:latest --build-arg HOST_IMAGE=b:2 images",
		"build --file images/frr/Dockerfile --tag sitewire-frr:latest --build-arg HOST_IMAGE=b:2 images",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("%s\ndoes not have: %s", out, want)
		}
	}
	if out, err := runMake(t, "", "deploy", "LAB=none"); err == nil || !strings.Contains(out, "there is no lab none; there are: dn42 ") {
		t.Errorf("a lab that is not there: %v %s", err, out)
	}
	if out, err := runMake(t, "", "destroy", "LAB=pair"); err != nil || !strings.Contains(out, "destroy --cleanup --topo pair/pair.clab.yml") {
		t.Errorf("destroy: %v %s", err, out)
	}
}
