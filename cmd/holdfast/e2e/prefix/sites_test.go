//go:build e2e

package prefix

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sites are two data sites and a witness, each a process of the real binary.
type sites struct {
	t       *testing.T
	dir     string
	running map[string]*exec.Cmd
}

const group = "erp"

// product is the binary under test, built once for all of them.
var product string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "holdfast-prefix-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	product = filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", product, "github.com/holdfast-dr/holdfast/cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s\n", err, out)
		return 1
	}
	return m.Run()
}

func newSites(t *testing.T, mode string) *sites {
	t.Helper()
	s := &sites{t: t, dir: t.TempDir(), running: map[string]*exec.Cmd{}}
	net := fmt.Sprintf("127.%d.%d", 20+rand.IntN(200), rand.IntN(256)) // of loopback, where no other test has its ports
	at := map[string]string{"a": net + ".11", "b": net + ".12", "w": net + ".13"}
	var list strings.Builder
	for i, id := range []string{"a", "b", "w"} {
		fmt.Fprintf(&list, "  - {id: %s, index: %d, role: %s, nats: 'nats://%s:4222'}\n", id, i+1, map[bool]string{true: "witness", false: "data"}[id == "w"], at[id])
	}
	for id, addr := range at {
		text := fmt.Sprintf("site: %s\ndata_dir: ./%s\ntiming: fast\nnats: {listen: '%s:4222'}\nsites:\n%s"+
			"quorum: {model: node_and_share_majority}\njournal: {size: 32MiB}\n", id, id, addr, list.String())
		if id != "w" {
			text += fmt.Sprintf("iscsi: {listen: '%s:3260'}\n", addr)
		}
		text += fmt.Sprintf("groups:\n  - id: %s\n    tier: 1\n    home: a\n    targets: [{site: b, mode: %s}]\n    durability: strict\n"+
			"    on_target_loss: degrade\n    failover: auto\n    hold_down: 100ms\n    volumes: [{id: data, size: 1MiB}, {id: log, size: 1MiB}]\n"+
			"plans:\n  - id: main\n    groups: [{group: %s, priority: 1}]\n", group, mode, group)
		if err := os.WriteFile(s.config(id), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for id := range s.running {
			s.kill(id)
		}
	})
	s.start("a", "b", "w")
	return s
}

func (s *sites) config(site string) string { return filepath.Join(s.dir, site+".yaml") }

func (s *sites) start(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		log, err := os.OpenFile(filepath.Join(s.dir, id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			s.t.Fatal(err)
		}
		cmd := exec.Command(product, "site", "--config", s.config(id))
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		_ = log.Close()
		s.running[id] = cmd
	}
}

// kill ends all of a site at once.
func (s *sites) kill(id string) {
	cmd := s.running[id]
	delete(s.running, id)
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// shown is what holdfast group show tells.
type shown struct {
	Copies map[string]struct {
		Role    string `json:"role"`
		Serving bool   `json:"serving"`
		Error   string `json:"error"`
		Disks   []struct {
			URL string `json:"url"`
		} `json:"disks"`
		Targets []struct {
			Site   string `json:"site"`
			State  string `json:"state"`
			InSync bool   `json:"in_sync"`
			Lag    int64  `json:"lag_bytes"`
		} `json:"targets"`
	} `json:"copies"`
}

func (s *sites) show() (shown, error) {
	asked := "a" // of a data site that runs
	if s.running[asked] == nil {
		asked = "b"
	}
	out, err := exec.Command(product, "group", "show", group, "--config", s.config(asked), "--output", "json").Output()
	var failed *exec.ExitError
	if err != nil && (!errors.As(err, &failed) || len(out) == 0) {
		return shown{}, err
	}
	var got shown
	return got, json.Unmarshal(out, &got)
}

// serves waits until a site serves the group, and gives the addresses of its disks.
func (s *sites) serves(site string) []string {
	s.t.Helper()
	var urls []string
	s.until(site+" serves", func(g shown) bool {
		urls = nil
		for _, d := range g.Copies[site].Disks {
			urls = append(urls, d.URL)
		}
		return g.Copies[site].Serving && len(urls) == volumes
	})
	return urls
}

// follows waits until a site's target has all that it serves, and is in sync where it should.
func (s *sites) follows(site string, sync bool) {
	s.t.Helper()
	s.until("the target of "+site+" follows", func(g shown) bool {
		for _, t := range g.Copies[site].Targets {
			return t.State == "streaming" && t.Lag == 0 && (t.InSync || !sync)
		}
		return false
	})
}

func (s *sites) until(what string, is func(shown) bool) {
	s.t.Helper()
	end := time.Now().Add(60 * time.Second)
	for {
		g, err := s.show()
		if err == nil && is(g) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("never: %s; last: %+v %v", what, g, err)
		}
		time.Sleep(20 * time.Millisecond) // the command is a process of its own
	}
}
