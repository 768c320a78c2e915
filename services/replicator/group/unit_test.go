package group

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestCopiesOfTwoSitesAreOneDiskToTheGuestAndTwoUnitsToAHost(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	var at [2][2]target.UnitInfo // by site and volume
	for v := range at[0] {
		at[0][v] = c.nodes["a"].unit(v).Info()
	}
	c.kill("a")
	c.promote("b", 514)
	for v := range at[1] {
		at[1][v] = c.nodes["b"].unit(v).Info()
	}
	seen := map[[8]byte]bool{}
	for v := range at[0] {
		a, b := at[0][v], at[1][v]
		if a.Serial == "" || a.Serial != b.Serial || a.SizeBytes != b.SizeBytes || a.Product != b.Product {
			t.Errorf("volume %d is %+v at one site and %+v at the other", v, a, b)
		}
		for _, i := range []target.UnitInfo{a, b} {
			if seen[i.NAA] || i.NAA[0]>>4 != 3 || i.Removable {
				t.Errorf("volume %d: NAA %x, removable %v", v, i.NAA, i.Removable)
			}
			seen[i.NAA] = true
		}
	}
	if at[0][0].Serial == at[0][1].Serial {
		t.Error("two volumes have one serial")
	}
}

func TestReplicatedVolumeKeepsNoReservations(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	if _, keeps := c.nodes["a"].unit(0).(target.Keeper); keeps {
		t.Fatal("a unit of one epoch keeps reservations, which end with it")
	}
}
