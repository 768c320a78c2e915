package failover

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAGroupThatCannotBeBroughtUpKeepsNoOtherWaiting(t *testing.T) {
	w := newWorld(t, testGroup(t, "dir", domain.ModeSync, "ad"), testGroup(t, "erp", domain.ModeSync, "db"))
	w.sites["a"].broken = "dir"
	w.start("a", nil)
	w.runsAt("db", "a-h1")
	w.mu.Lock()
	ad := w.running["ad"]
	w.sites["a"].broken = ""
	w.mu.Unlock()
	if ad != "" {
		t.Errorf("vm ad runs at %s, without volumes", ad)
	}
	w.runsAt("ad", "a-h1") // as soon as it can
}

func TestAForcedLeaseIsNotGivenBack(t *testing.T) {
	g := api.GroupDesired{Site: "a", Epoch: 257}
	for want, leases := range map[bool][]api.Lease{
		true:  {{Held: true, Epoch: 514}},
		false: {{Held: true, Epoch: 514, Forced: true}, {Held: true, Epoch: 257}, {Epoch: 514}},
	} {
		for _, l := range leases {
			if got := unused(g, l); got != want {
				t.Errorf("%+v: given back %v, want %v", l, got, want)
			}
		}
	}
}
