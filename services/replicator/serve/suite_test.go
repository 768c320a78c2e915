//go:build e2e

package serve

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowSanitize makes the suite run its tests of SANITIZE. The one of resets wants a sanitize to take five seconds at least,
// and looks once a minute whether it ended.
const allowSanitize = "--allow-sanitize"

// suiteRun is what one run of iscsi-test-cu printed.
type suiteRun struct {
	ran, failed int
	tests       map[string]bool // "Suite.Test", and whether it said that it was skipped
	suites      []string
	out         string
}

var (
	suiteSummary = regexp.MustCompile(`(?m)^ +tests +(\d+) +(\d+) +(\d+) +(\d+)`)
	suiteName    = regexp.MustCompile(`^Suite: (\S+)`)
	testName     = regexp.MustCompile(`^  Test: (\S+) \.\.\.`)
	listedSkip   = regexp.MustCompile("(?m)^\\| `(\\w+\\.[\\w-]+)` \\| (one path|always|no sanitize) \\|")
)

// runSuite runs the suite. -v makes CUnit name each test before what it prints; a skip counts as a pass there.
func runSuite(t *testing.T, args ...string) suiteRun {
	t.Helper()
	out, _ := tool(t, "iscsi-test-cu", append([]string{"-d", "-v"}, args...)...)
	summary := suiteSummary.FindStringSubmatch(out)
	if summary == nil {
		t.Fatalf("the suite did not end:\n%s", out)
	}
	r := suiteRun{tests: map[string]bool{}, out: out}
	r.ran, _ = strconv.Atoi(summary[2])
	r.failed, _ = strconv.Atoi(summary[4])
	test := ""
	for line := range strings.Lines(out) {
		if m := suiteName.FindStringSubmatch(line); m != nil {
			r.suites, test = append(r.suites, m[1]), ""
		}
		if m := testName.FindStringSubmatch(line); m != nil {
			test = r.suites[len(r.suites)-1] + "." + m[1]
			r.tests[test] = false
		}
		if test != "" && strings.Contains(line, "[SKIPPED]") {
			r.tests[test] = true
		}
	}
	return r
}

// listedSkips are the tests that docs/compliance.md says are skipped, and when.
func listedSkips(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/compliance.md")
	if err != nil {
		t.Fatal(err)
	}
	skips := map[string]string{}
	for _, m := range listedSkip.FindAllStringSubmatch(string(b), -1) {
		skips[m[1]] = m[2]
	}
	if len(skips) == 0 {
		t.Fatal("docs/compliance.md lists no skipped test")
	}
	return skips
}

// check holds a run to what is promised: at least so many tests, none failed, and those skipped that are listed, no others.
func (r suiteRun) check(t *testing.T, atLeast, paths int, sanitize bool, listed map[string]string) {
	t.Helper()
	applies := map[string]bool{"always": true, "one path": paths == 1, "no sanitize": !sanitize}
	skipped := 0
	for test, skip := range r.tests {
		if skip {
			skipped++
		}
		if want := applies[listed[test]]; skip != want {
			t.Errorf("%s: skipped %v, docs/compliance.md says %v", test, skip, want)
		}
	}
	if r.failed != 0 || r.ran < atLeast {
		t.Errorf("%d ran, want %d; %d failed:\n%s", r.ran, atLeast, r.failed, r.out)
	}
	t.Logf("%d ran, %d of %d different tests skipped, %d failed", r.ran, skipped, len(r.tests), r.failed)
}

// TestLibiscsiSuite runs libiscsi's conformance suite: all of it over one path and over two, its default run, which goes
// through overlapping families, each family, and each suite alone. Each run has a fresh volume: MultipathIO.CompareAndWrite
// expects zeroes in a block that it does not zero, and does not find them a second time.
func TestLibiscsiSuite(t *testing.T) {
	need(t, "iscsi-test-cu")
	listed := listedSkips(t)
	run := func(t *testing.T, atLeast, paths int, args ...string) suiteRun {
		t.Helper()
		url, stop := start(t, Options{File: filepath.Join(t.TempDir(), "v.img"), Size: "1GiB", Listen: "127.0.0.1:0", Removable: true, SanitizeRate: "100MiB"})
		for range paths {
			args = append(args, url)
		}
		r := runSuite(t, args...)
		r.check(t, atLeast, paths, slices.Contains(args, allowSanitize), listed)
		if err := stop(); err != nil {
			t.Error(err)
		}
		return r
	}
	var suites []string
	for _, c := range []struct {
		name    string
		family  string // none: the default run
		atLeast int
		paths   int
		more    []string
	}{
		{"all over one path", "ALL", 230, 1, nil},
		{"all, and sanitize", "ALL", 230, 1, []string{allowSanitize}},
		{"all over two paths", "ALL", 230, 2, nil},
		{"the default run", "", 615, 1, nil},
		{"multipath", "SCSI.MultipathIO", 4, 2, nil},
		{"SCSI alone", "SCSI", 215, 1, nil},
		{"iSCSI alone", "iSCSI", 15, 1, nil},
		{"LINUX alone", "LINUX", 150, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := slices.Clone(c.more)
			if c.family != "" {
				args = append(args, "-t", c.family)
			}
			if suites != nil { // the first tells which there are
				t.Parallel() // they wait more than they work, each with a target of its own
			}
			if r := run(t, c.atLeast, c.paths, args...); suites == nil {
				suites = r.suites
			}
		})
	}
	t.Run("each suite alone", func(t *testing.T) {
		t.Parallel()
		for _, suite := range suites {
			run(t, 1, 1, "-t", "ALL."+suite)
		}
	})
}
