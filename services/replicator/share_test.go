package replicator_test

import (
	"bytes"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// A target that was away lacks as much of three groups, one of each tier, and the link takes fifteen seconds for all of it: while each group
// waits for it they have 4, 2 and 1 parts of what is sent.
func TestGroupsThatWaitForALinkAreSentByTier(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: takes seconds")
	}
	const rate, each, size = 7 << 19, 18 << 20, 64 << 10
	parts := [3]float64{4, 2, 1} // manyGroups gives the tiers 1, 2 and 3
	w := newWorldOf(t, manyGroups(len(parts), 8<<20)...)
	w.q.inSync, w.q.left = []domain.SiteID{"a"}, time.Minute // a busy machine is no lost lease
	w.journal, w.links = 2*each, map[domain.SiteID]domain.Transport{"b": {RateLimit: rate}}
	w.start("a")
	w.start("b")
	disks := w.open("a", 257)
	w.following()
	w.stop["b"]()
	var wg sync.WaitGroup
	for i, group := range disks {
		for v, disk := range group {
			wg.Go(func() {
				for n := range each / groupVolumes / size {
					data := bytes.Repeat([]byte{byte(1 + 50*i + 10*v + n%10)}, size)
					if err := disk.Write(t.Context(), data, int64(n)*size, false); err != nil {
						t.Errorf("group %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	sample := func() (sent, lag [3]float64) {
		st, err := call[api.ReplicatorStatus](w, "a", api.VerbStatus, api.GroupRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range w.defs {
			for _, s := range st.Groups {
				if s.Group == g.ID && len(s.Targets) == 1 {
					sent[i], lag[i] = float64(s.Targets[0].SentBytes+s.Targets[0].ResyncBytes), float64(s.Targets[0].LagBytes)
				}
			}
		}
		return sent, lag
	}
	before, _ := sample()
	w.start("b")
	var from, to, lag [3]float64
	w.until("something of every group is sent", func() bool {
		from, _ = sample()
		return from[0] > before[0] && from[1] > before[1] && from[2] > before[2]
	})
	began := time.Now()
	w.until("two thirds of the first group are sent", func() bool {
		if to, lag = sample(); min(lag[0], lag[1], lag[2]) == 0 {
			t.Fatalf("a group waits for the link no more: they lack %.0f bytes", lag)
		}
		return to[0]-from[0] > each*2/3
	})
	total, took := to[0]+to[1]+to[2]-from[0]-from[1]-from[2], time.Since(began)
	if most := 1.1*rate*took.Seconds() + size*groupVolumes; total > most {
		t.Errorf("%.0f bytes in %s: the link takes %d a second", total, took, rate)
	}
	for i, part := range parts {
		got, want := to[i]-from[i], total*part/7
		t.Logf("tier %d: %.1f MiB in %s, %.1f are its share", i+1, got/(1<<20), took.Round(time.Millisecond), want/(1<<20))
		if math.Abs(got-want) > 0.3*want {
			t.Errorf("tier %d was sent %.1f MiB of %.1f, its share is %.1f", i+1, got/(1<<20), total/(1<<20), want/(1<<20))
		}
	}
}
