//go:build e2e

package whatif

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

var product string

func TestMain(m *testing.M) { os.Exit(sitestest.Main(m, &product)) }

var holdDowns = []time.Duration{100 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond}

const (
	block = 4096
	// burst is how many blocks are written at once before a loss; at 64 KiB a second a target takes half a minute for them.
	burst = 600
	// over is when every takeover that is to come by itself has begun: the longest hold-down, the suspicion and the lease of the fast profile, several times.
	over = 15 * time.Second
)

// TestWhatIsPredictedComesTrue is task e2e:whatif.
func TestWhatIsPredictedComesTrue(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("HOLDFAST_WHATIF_STATES"))
	if err != nil || n < 1 {
		t.Skip("SKIPPED: a quarter of an hour: task e2e:whatif")
	}
	first, err := strconv.ParseUint(cmp.Or(os.Getenv("HOLDFAST_WHATIF_SEED"), "1"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for seed := first; seed < first+uint64(n); seed++ { //nolint:gosec // a small number
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			s := draw(seed)
			t.Log(s)
			f := start(t, s)
			t.Cleanup(func() { f.logs() })
			for what, n := range f.compare() {
				counts[what] += n
			}
		})
	}
	t.Logf("%d states: %v", n, counts)
}

// logs shows what the sites said, of a state that failed.
func (f *fleet) logs() {
	if !f.t.Failed() {
		return
	}
	for _, id := range f.sites() {
		text, _ := os.ReadFile(filepath.Join(f.dir, id+".log"))
		f.t.Logf("--- site %s\n%s", id, text[max(0, len(text)-6000):])
	}
}

// compare predicts the loss, carries it out, and holds one against the other. It counts what was compared.
func (f *fleet) compare() map[string]int {
	f.settled()
	if f.t.Failed() {
		f.t.FailNow()
	}
	f.lostBefore()
	f.await("every observer trusts itself, and every estimate is known", func() bool {
		p, ok := f.predict()
		return ok && len(p.Blind) == 0 && !slices.ContainsFunc(p.Groups, func(g whatif.Fate) bool { return g.Loss != nil && !g.Loss.Known })
	})
	wrote := f.fallBehind()
	p, ok := f.predict()
	if !ok || f.t.Failed() {
		f.t.Fatal("no prediction")
	}
	lost := time.Now()
	f.kill(f.lose...)
	for _, g := range p.Groups {
		f.t.Logf("predicted: %s %s %s>%s order %d hold %s loss %+v: %q", g.Group, g.What, g.From, g.To, g.Order, g.HoldDown(), g.Loss, g.Why)
	}
	for _, g := range p.Groups {
		if g.What == whatif.Moves {
			f.await(fmt.Sprintf("group %s moves to %s", g.Group, g.To), func() bool {
				at, _ := f.serving(g.Group)
				return slices.Equal(at, []string{string(g.To)})
			})
		}
	}
	time.Sleep(time.Until(lost.Add(over))) // that nothing more happens can only be waited for
	counts := map[string]int{}
	for _, g := range p.Groups {
		counts[g.What]++
		var want []string
		switch g.What {
		case whatif.Stays, whatif.Moves:
			want = []string{string(g.To)}
		}
		if at, _ := f.serving(g.Group); !slices.Equal(at, want) {
			f.t.Errorf("group %s was predicted: %s, at %v; it is served at %v", g.Group, g.What, want, at)
		}
		if g.What == whatif.Moves {
			counts["losses"] += f.checkLoss(g, wrote)
		}
	}
	counts["orders"] = f.checkOrder(p)
	return counts
}

// lostBefore carries out what is lost before the prediction, and waits until its consequences are over.
func (f *fleet) lostBefore() {
	if len(f.before) == 0 {
		return
	}
	f.kill(f.before...)
	time.Sleep(over) // as above
}

// fallBehind writes more into the group whose targets lag than they take, and gives how many blocks.
func (f *fleet) fallBehind() int {
	if f.late == "" {
		return 0
	}
	at, got := f.serving(f.late)
	if len(at) != 1 {
		return 0
	}
	s, err := initiator.Dial(f.t.Context(), got.Copies[at[0]].Disks[0].URL, initiator.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	b := make([]byte, block)
	for i := range burst {
		binary.BigEndian.PutUint64(b, uint64(i)+1) //nolint:gosec // not negative
		if err := s.Write(f.t.Context(), b, int64(i)*block, false); err != nil {
			f.t.Fatal(err)
		}
	}
	return burst
}

// checkLoss counts what is not there of what was written, and holds it against the prediction. It gives how many losses it compared.
func (f *fleet) checkLoss(g whatif.Fate, wrote int) int {
	if g.Group != f.late || wrote == 0 {
		if g.Loss == nil || !g.Loss.Known {
			f.t.Errorf("group %s moves, and its loss was predicted as %+v", g.Group, g.Loss)
		}
		return 0
	}
	_, got := f.serving(g.Group)
	disks := got.Copies[string(g.To)].Disks
	if len(disks) == 0 {
		return 0 // told already: it is not served there
	}
	s, err := initiator.Dial(f.t.Context(), disks[0].URL, initiator.Options{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	b := make([]byte, wrote*block)
	for at := 0; at < len(b); at += 64 * block {
		if err := s.Read(f.t.Context(), b[at:min(at+64*block, len(b))], int64(at)); err != nil {
			f.t.Fatal(err)
		}
	}
	missing := 0
	for i := range wrote {
		if binary.BigEndian.Uint64(b[i*block:]) != uint64(i)+1 { //nolint:gosec // not negative
			missing++
		}
	}
	predicted := int(g.Loss.Writes) //nolint:gosec // some hundreds
	f.t.Logf("group %s: %d of %d writes are missing, %d were predicted", g.Group, missing, wrote, predicted)
	if diff := max(predicted-missing, missing-predicted); 10*diff > missing {
		f.t.Errorf("group %s: %d writes are missing, %d were predicted: more than a tenth off", g.Group, missing, predicted)
	}
	return 1
}

// checkOrder holds the order of what moved against the prediction, where one thing had to wait for another: two groups that a site takes over
// after different hold-downs, or of one run one after the other. It gives how many pairs it compared.
func (f *fleet) checkOrder(p whatif.Prediction) int {
	began, started := map[domain.GroupID]time.Time{}, map[domain.GroupID]time.Time{}
	run := map[domain.GroupID]domain.RunID{}
	for _, id := range f.left() {
		for _, r := range f.runs(domain.SiteID(id)) {
			for _, st := range r.Steps {
				switch {
				case r.Kind != api.RunFailover || st.State != api.StepDone:
				case st.Kind == plan.KindAcquire:
					began[st.Group], run[st.Group] = st.Started, r.ID
				case st.Kind == plan.KindStart:
					started[st.Group] = st.Started
				}
			}
		}
	}
	pairs := 0
	for _, x := range p.Groups {
		for _, y := range p.Groups {
			if x.What != whatif.Moves || y.What != whatif.Moves || x.Order >= y.Order || x.To != y.To {
				continue
			}
			first, then := began[x.Group], began[y.Group]
			if x.HoldNs == y.HoldNs {
				px, py := slices.Index(f.plan, string(x.Group)), slices.Index(f.plan, string(y.Group))
				if px < 0 || py < 0 || run[x.Group] != run[y.Group] || started[x.Group].IsZero() || started[y.Group].IsZero() {
					continue // nothing orders them
				}
				first, then = started[x.Group], started[y.Group]
			}
			pairs++
			if first.IsZero() || !first.Before(then) {
				f.t.Errorf("group %s was predicted to come before %s; they came at %s and %s", x.Group, y.Group, first, then)
			}
		}
	}
	return pairs
}
