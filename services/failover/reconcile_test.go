package failover

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

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
