package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
)

// outcome is what a script sees of a command.
type outcome struct {
	stdout, stderr string
	code           int
	err            error
}

func holdfast(ctx context.Context, args ...string) outcome {
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(ctx)
	return outcome{out.String(), errs.String(), exitCode(err), err}
}

func TestBadInputExitsWithItsCodeAndNamesTheMend(t *testing.T) {
	dir := t.TempDir()
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.yaml")
	if err := os.WriteFile(broken, bytes.Replace(sample, []byte("timing:"), []byte("timeing:"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(dir, "small.img")
	if err := os.WriteFile(small, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"unknown key", []string{"config", "validate", broken}, 2, []string{"broken.yaml:5:", "timeing", `did you mean "timing"`}},
		{"no such file", []string{"config", "validate", filepath.Join(dir, "none.yaml")}, 2, []string{"none.yaml"}},
		{"no argument", []string{"config", "validate"}, 2, []string{"one FILE"}},
		{"unknown flag", []string{"demo", "--scenari", "x"}, 2, []string{"scenari"}},
		{"unknown command", []string{"dmeo"}, 2, []string{"dmeo", "did you mean demo"}},
		{"unknown subcommand", []string{"group", "lst"}, 2, []string{"lst", "list"}},
		{"missing reason", []string{"run", "start", "--plan", "main", "--kind", "failover"}, 2, []string{"--reason"}},
		{"a window that is none", []string{"group", "set", "erp", "--return-after", "1h", "--return-within", "sat@22-5"}, 2, []string{"sat@22-5", "sat,sun@22:00-05:00"}},
		{"a day that is none", []string{"group", "set", "erp", "--return-after", "1h", "--return-within", "sab@22:00-05:00"}, 2, []string{`"sab"`, "sat or sun"}},
		{"a window alone", []string{"group", "set", "erp", "--return-within", "22:00-05:00"}, 2, []string{"--return-after"}},
		{"nothing to set", []string{"group", "set", "erp", "--reason", "why"}, 2, []string{"--help"}},
		{"a drain without a reason", []string{"site", "drain", "a"}, 2, []string{"--why"}},
		{"a drain of no site", []string{"site", "drain", "--why", "works"}, 2, []string{"one SITE"}},
		{"missing flag", []string{"site"}, 2, []string{"config"}},
		{"unknown scenario", []string{"demo", "--scenario", "flood"}, 2, []string{"flood", "site-loss"}},
		{"unknown driver", []string{"demo", "--vm", "xen"}, 2, []string{"xen", "qemu"}},
		{"unknown output", []string{"demo", "--output", "xml"}, 2, []string{"xml", "json"}},
		{"folder in use", []string{"demo", "--dir", dir}, 2, []string{dir, "empty"}},
		{"no configuration", []string{"status"}, 2, []string{"--config"}},
		{"broken configuration", []string{"group", "list", "--config", broken}, 2, []string{"timeing"}},
		{"volume of another size", []string{"volume", "serve", small, "--size", "1MiB", "--listen", "127.0.0.1:0"}, 2, []string{"small.img"}},
		{"no pool", []string{"volume", "list"}, 2, []string{"--pool", "HOLDFAST_POOL"}},
		{"no such pool", []string{"volume", "list", "--pool", filepath.Join(dir, "none")}, 1, []string{"none", "volume create"}},
		{"a folder that is no pool", []string{"volume", "create", "a", "--size", "1MiB", "--pool", dir}, 2, []string{"not empty"}},
		{"volume without a size", []string{"volume", "create", "a", "--pool", filepath.Join(dir, "none")}, 2, []string{"--size"}},
		{"bad limit", []string{"volume", "set", "a", "--iops", "many", "--pool", filepath.Join(dir, "none")}, 2, []string{"--iops", "none takes"}},
		{"file and pool", []string{"volume", "serve", "a", "b"}, 2, []string{"--pool DIR"}},
		{"bad io", []string{"volume", "serve", small, "--io", "fast", "--listen", "127.0.0.1:0"}, 2, []string{"direct"}},
		{"bad size", []string{"volume", "serve", filepath.Join(dir, "new.img"), "--size", "1", "--listen", "127.0.0.1:0"}, 2, []string{"64MiB"}},
		{"port in use", []string{"volume", "serve", filepath.Join(dir, "new.img"), "--size", "1MiB", "--listen", busy.Addr().String()}, 1, []string{busy.Addr().String(), "in use"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(configEnv, "")
			t.Setenv(poolEnv, "")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			o := holdfast(ctx, c.args...)
			if o.code != c.code {
				t.Fatalf("exit %d, want %d: %v", o.code, c.code, o.err)
			}
			for _, w := range c.want {
				if !strings.Contains(o.err.Error(), w) {
					t.Errorf("the error does not name %q: %v", w, o.err)
				}
			}
			if o.stdout != "" {
				t.Errorf("an error put this on standard output: %s", o.stdout)
			}
		})
	}
}

func TestConfigValidateAcceptsTheSamples(t *testing.T) {
	for _, s := range []string{"a", "b", "w"} {
		o := holdfast(t.Context(), "config", "validate", "../../deploy/examples/site-"+s+".yaml")
		if o.code != 0 || !strings.Contains(o.stdout, "valid: site "+s) {
			t.Errorf("site %s: exit %d, %v: %s", s, o.code, o.err, o.stdout)
		}
	}
}

// TestDemoThatIsInterruptedFailsWithAWholeReport ends a demo as Ctrl-C does.
func TestDemoThatIsInterruptedFailsWithAWholeReport(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := holdfast(ctx, "demo", "--output", "json", "--dir", filepath.Join(t.TempDir(), "new"))
	if o.code != 1 {
		t.Errorf("exit %d, %v", o.code, o.err)
	}
	if o.stdout == "" { // it ended before there was anything to report
		return
	}
	var r map[string]any
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || r["ok"] != false {
		t.Fatalf("%v: %s", err, o.stdout)
	}
	for _, list := range []string{"groups", "dns", "phases", "checks"} {
		if _, ok := r[list].([]any); !ok {
			t.Errorf("%s is no list: %v", list, r[list])
		}
	}
}

// TestDemoSurvivesTheLossOfASite is the main job, once; every scenario with more seeds runs in the e2e suite.
func TestDemoSurvivesTheLossOfASite(t *testing.T) {
	playDemo(t, "--scenario", "site-loss", "--seed", "7")
}

// playDemo runs a scenario and holds its report to the promises that do not depend on the scenario.
func playDemo(t *testing.T, args ...string) demo.Report {
	t.Helper()
	o := holdfast(t.Context(), append([]string{"demo", "--output", "json"}, args...)...)
	return judgeDemo(t, o)
}

func judgeDemo(t *testing.T, o outcome) demo.Report {
	t.Helper()
	var r demo.Report
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("exit %d, %v; not one JSON object: %v\n%s\n%s", o.code, o.err, err, o.stdout, o.stderr)
	}
	if o.code != 0 || !r.OK {
		t.Errorf("exit %d, ok %v, %v\n%s\n%s", o.code, r.OK, o.err, o.stderr, o.stdout)
	}
	if len(r.Groups) != 2 || len(r.DNS) != 2 || len(r.Phases) == 0 || len(r.TraceID) != 32 {
		t.Errorf("report is not whole: %s", o.stdout)
	}
	for _, g := range r.Groups {
		if g.ServedTwice || !g.PrefixOK || g.WritesAcked == 0 || g.WritesFound+g.LostWrites != g.WritesAcked || g.EpochBefore == 0 {
			t.Errorf("group %s: %+v", g.Name, g)
		}
		if g.Mode == "sync" && g.LostWrites != 0 {
			t.Errorf("group %s lost %d writes", g.Name, g.LostWrites)
		}
	}
	return r
}
