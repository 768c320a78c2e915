//go:build e2e

package checkpoints

import (
	"os"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

// TestTheEmbeddedWorkloadIsHeldBetweenTwoAppends needs no QEMU: the demo's own VM has the same records on both volumes at an
// application-consistent checkpoint.
func TestTheEmbeddedWorkloadIsHeldBetweenTwoAppends(t *testing.T) {
	s := sitestest.New(t, sitestest.Options{Product: product, Mode: "async", VolumeSize: "4MiB", Driver: "embedded", Checkpoints: "{every: 1s}"})
	s.Serves("a")
	s.Follows("a", false)
	c := newClient(t, s.VMAddress("a"))
	c.more(20)
	for range 3 {
		p := take(t, s, c, true)
		var last []uint64
		for _, file := range export(t, s, "b", p) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := applog.Scan(f)
			_ = f.Close()
			if err != nil || !r.PrefixOK || r.TornTail {
				t.Fatalf("%+v, %v", r, err)
			}
			last = append(last, r.LastSeq)
		}
		if last[0] != last[1] || last[0] < p.before || last[0] > p.after+writers {
			t.Fatalf("records up to %v; acknowledged were %d before and %d after", last, p.before, p.after)
		}
	}
}

// TestTheSiteThatIsLeftGoesBackInPlace is the worst hour's: a site is lost, the other takes over, and then what was replicated proves
// to have been damaged for a while.
func TestTheSiteThatIsLeftGoesBackInPlace(t *testing.T) {
	s := sitestest.New(t, sitestest.Options{Product: product, Mode: "sync", VolumeSize: "4MiB", Driver: "embedded", Checkpoints: "{every: 1s}"})
	s.Serves("a")
	s.Follows("a", true)
	c := newClient(t, s.VMAddress("a"))
	c.more(20)
	var points []taken
	for range 3 {
		points = append(points, take(t, s, c, false))
		c.more(5)
	}
	c.stop()
	s.Kill("a")
	s.Serves("b")
	c = newClient(t, s.VMAddress("b"))
	c.more(20)
	points = append(points, take(t, s, c, false)) // at the site that serves, which nobody follows
	for _, p := range slices.Backward(points) {
		c.more(10)
		c.stop()
		s.BackInPlace("b", p.Checkpoint)
		c = newClient(t, s.VMAddress("b"))
		if first := c.more(1); first <= p.before || first > p.after+writers+1 {
			t.Fatalf("at checkpoint %+v the workload goes on with record %d", p, first)
		}
	}
	s.Start("a")
	s.Follows("b", true)
	c.more(5)
}
