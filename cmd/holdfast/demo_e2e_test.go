//go:build e2e

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
)

// count reads how often something is repeated from the environment: HOLDFAST_DEMO_SEEDS and HOLDFAST_DEMO_ROUNDS raise it.
func count(t *testing.T, name string, def int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number above 0", name, text)
	}
	return n
}

// binary builds the product as it is shipped.
func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func demoProcess(t *testing.T, bin string, args ...string) demo.Report {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), bin, append([]string{"demo", "--output", "json"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return judgeDemo(t, outcome{stdout: out.String(), stderr: errs.String(), code: cmd.ProcessState.ExitCode(), err: err})
}

const farScenario = "three-sites"

func TestEveryScenarioHoldsForEverySeed(t *testing.T) {
	bin := binary(t)
	for _, scenario := range demo.Scenarios() {
		if scenario == farScenario {
			continue // as processes, below
		}
		for seed := range count(t, "HOLDFAST_DEMO_SEEDS", 2) {
			t.Run(fmt.Sprintf("%s/%d", scenario, seed), func(t *testing.T) {
				demoProcess(t, bin, "--scenario", scenario, "--seed", strconv.Itoa(seed))
			})
		}
	}
}

func TestKillingEveryProcessOfASiteLosesNothing(t *testing.T) {
	bin := binary(t)
	for round := range count(t, "HOLDFAST_DEMO_ROUNDS", 3) {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			demoProcess(t, bin, "--processes", "--scenario", "site-loss", "--seed", strconv.Itoa(100+round))
		})
	}
	t.Run("and a far site follows", func(t *testing.T) {
		demoProcess(t, bin, "--processes", "--scenario", farScenario, "--seed", "98")
	})
	t.Run("and home again", func(t *testing.T) {
		demoProcess(t, bin, "--processes", "--scenario", "failback", "--seed", "99")
	})
}

func TestRealLinuxGuestSurvivesTheLossOfASite(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("qemu-system-x86_64 is not installed")
		}
		t.Skip("SKIPPED: qemu-system-x86_64 not installed: run deploy/debian/install-test-tools.sh")
	}
	demoProcess(t, binary(t), "--vm", "qemu", "--scenario", "site-loss", "--seed", "1")
}
