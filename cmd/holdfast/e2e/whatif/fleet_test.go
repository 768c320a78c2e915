//go:build e2e

package whatif

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const patience = 90 * time.Second

// fleet is a state that runs, each site a process.
type fleet struct {
	state
	t       *testing.T
	dir     string
	running map[string]*exec.Cmd
}

func start(t *testing.T, s state) *fleet {
	t.Helper()
	f := &fleet{state: s, t: t, dir: t.TempDir(), running: map[string]*exec.Cmd{}}
	for _, id := range s.sites() {
		if err := os.WriteFile(f.config(id), []byte(s.text(id)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { f.kill(s.sites()...) })
	for _, id := range s.sites() {
		log, err := os.Create(filepath.Join(f.dir, id+".log"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(product, "site", "--config", f.config(id))
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = log.Close()
		f.running[id] = cmd
	}
	return f
}

func (f *fleet) config(id string) string { return filepath.Join(f.dir, id+".yaml") }

// kill is the loss of sites, all at once.
func (f *fleet) kill(ids ...string) {
	for _, id := range ids {
		if cmd := f.running[id]; cmd != nil {
			_ = cmd.Process.Kill()
		}
	}
	for _, id := range ids {
		if cmd := f.running[id]; cmd != nil {
			_ = cmd.Wait()
			delete(f.running, id)
		}
	}
}

// eye is a data site that runs: it is asked.
func (f *fleet) eye() string {
	for _, id := range append(f.left(), f.data...) {
		if f.running[id] != nil {
			return id
		}
	}
	f.t.Fatal("no data site runs")
	return ""
}

// ask has a command's JSON; false where it gave none.
func (f *fleet) ask(into any, args ...string) bool {
	out, _ := exec.Command(product, append(args, "--config", f.config(f.eye()), "--timeout", "4s", "-o", "json")...).Output() // a part is an error, and an answer
	return len(out) > 0 && json.Unmarshal(out, into) == nil
}

// serving is where a group is served, of the sites that run.
func (f *fleet) serving(g domain.GroupID) (at []string, got sitestest.Shown) {
	if !f.ask(&got, "group", "show", string(g)) {
		return nil, got
	}
	for id, c := range got.Copies {
		if c.Serving && f.running[id] != nil {
			at = append(at, id)
		}
	}
	slices.Sort(at)
	return at, got
}

// await asks until it is so.
func (f *fleet) await(what string, is func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !is(); {
		if time.Now().After(end) {
			f.t.Errorf("never: %s", what)
			return
		}
		time.Sleep(50 * time.Millisecond) // each look is a process of its own
	}
}

// settled waits until each group whose home runs is served there and its targets that run have everything.
func (f *fleet) settled() {
	f.t.Helper()
	for _, g := range f.groups {
		f.await("group "+string(g.ID)+" is served at home, and its targets follow", func() bool {
			at, got := f.serving(g.ID)
			if !slices.Equal(at, []string{string(g.Home)}) {
				return false
			}
			followed := 0
			for _, t := range got.Copies[string(g.Home)].Targets {
				mode := g.ModeTo(g.Home, domain.SiteID(t.Site))
				if t.State == api.TargetStreaming && t.Lag == 0 && (t.InSync || mode == domain.ModeAsync) {
					followed++
				}
			}
			return followed == len(slices.DeleteFunc(slices.Clone(g.Targets), func(t domain.Target) bool { return t.Mode == domain.ModeNone }))
		})
	}
}

// predict asks what the loss would do.
func (f *fleet) predict() (p whatif.Prediction, ok bool) {
	args := []string{"whatif"}
	for _, id := range f.lose {
		args = append(args, "--lose", "site:"+id)
	}
	var told struct {
		Predictions []whatif.Prediction `json:"predictions"`
	}
	if !f.ask(&told, args...) || len(told.Predictions) != 1 {
		return p, false
	}
	return told.Predictions[0], true
}

// runs are those that a site led.
func (f *fleet) runs(site domain.SiteID) []api.Run {
	var l api.RunList
	if !f.ask(&l, "run", "list", "--site", string(site)) {
		f.t.Errorf("site %s does not tell its runs", site)
	}
	return l.Runs
}
