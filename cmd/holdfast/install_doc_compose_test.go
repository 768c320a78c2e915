//go:build e2e_compose

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInstallDocIsTrueWithContainers runs docs/operations/install.md literally with docker-compose. Three addresses of this
// machine stand for three machines; it needs the images of task images.
func TestInstallDocIsTrueWithContainers(t *testing.T) {
	bash(t)
	for _, tool := range []string{"docker", "docker-compose", "ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is missing")
		}
	}
	for _, image := range []string{"holdfast/holdfast:0.2", "nats:2.15.2"} {
		if out, err := exec.Command("docker", "image", "inspect", image).CombinedOutput(); err != nil {
			missing(t, "no image "+image+" (task images): "+string(out))
		}
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "holdfast"), ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	addresses := map[string]string{"a": "10.99.87.1", "b": "10.99.87.2", "w": "10.99.87.3"}
	for _, address := range addresses {
		own(t, []string{"ip", "address", "add", address + "/32", "dev", "lo"}, []string{"ip", "address", "del", address + "/32", "dev", "lo"})
	}
	// Docker keeps its networks on one machine apart, which machines of their own are not.
	between := []string{"-s", "10.82.0.0/16", "-d", "10.82.0.0/16", "-j", "ACCEPT"}
	own(t, append([]string{"iptables", "-I", "DOCKER-USER"}, between...), append([]string{"iptables", "-D", "DOCKER-USER"}, between...))
	carrier(t, bin, dir, addresses)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	machines := map[string]*machine{}
	for site := range addresses {
		project := "COMPOSE_PROJECT_NAME=hf-doc-" + site
		machines[site] = newMachine(t, ctx, dir, site, bin, project, "A="+addresses["a"], "B="+addresses["b"], "W="+addresses["w"])
		t.Cleanup(func() {
			c := exec.Command("docker-compose", "--profile", "hypervisor", "down", "--volumes", "--timeout", "2")
			c.Dir, c.Env = filepath.Join(dir, site, site), append(os.Environ(), project)
			_ = c.Run() // the document has done it already when all went well
		})
	}
	last, moved := "", false
	play(t, machines, "with containers", func(b block, site, said string) {
		if site == "w" && strings.Contains(b.text, "hf status") {
			last = said
		}
		moved = moved || strings.Contains(b.text, "hf run start") && strings.Contains(said, "done")
	})
	if strings.Count(last, "all well") != 3 || !moved {
		t.Errorf("the switchover is done: %v; after the rotation w sees\n%s", moved, last)
	}
}

func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip("SKIPPED: " + why)
}

// own changes this machine until the test ends.
func own(t *testing.T, do, undo []string) {
	t.Helper()
	if out, err := exec.Command(do[0], do[1:]...).CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("%v: %v: %s", do, err, out))
	}
	t.Cleanup(func() { _ = exec.Command(undo[0], undo[1:]...).Run() })
}
