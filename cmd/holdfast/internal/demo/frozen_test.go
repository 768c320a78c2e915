package demo

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// state tells how all stands, for a test that failed.
func (w *world) state(ctx context.Context) string {
	var b strings.Builder
	for _, wl := range workloads() {
		for _, s := range []domain.SiteID{siteA, siteB} {
			st, err := w.con.replica(ctx, s, wl.group)
			fmt.Fprintf(&b, "%s at %s: %+v %v\n", wl.group, s, st, err)
		}
	}
	return b.String()
}

// TestAFrozenSiteWakesWhereAnotherServes stops every process of the serving site as it stands, until the other site serves, and
// lets them go on in any order.
func TestAFrozenSiteWakesWhereAnotherServes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, f := newFleetWorld(ctx, t, 20)
	w.writeAWhile(ctx)
	fault := time.Now()
	parts := f.Parts(siteA)
	var thaw []func()
	for _, name := range parts {
		thaw = append(thaw, f.Freeze(name))
	}
	for _, wl := range workloads() {
		if _, err := w.clients[wl.group].await(ctx, func(a ack) bool { return a.Site == siteB && a.at.After(fault) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range w.rng.Perm(len(thaw)) {
		thaw[i]()
		t.Logf("%s goes on", parts[i])
		wait(ctx, time.Duration(w.rng.Int64N(int64(200*time.Millisecond))))
	}
	if err := w.wellAgain(ctx, siteB, siteA, time.Now()); err != nil {
		t.Fatalf("%v\n%s", err, w.state(t.Context()))
	}
	w.judgeFleet(ctx, t, siteB)
}

// TestAReplicatorThatHungServesAgain stops the serving site's replicator as it stands for longer than the moment at which it must
// give up, first while the run that brings its groups up may be at its last step, and lets it go on. No hand helps: the groups
// are served there again, under a new epoch.
func TestAReplicatorThatHungServesAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, f := newFleetWorld(ctx, t, 21)
	thaw := f.Freeze(fleet.Part(siteA, api.ServiceReplicator))
	wait(ctx, longerThanALease)
	thaw()
	if err := w.wellAgain(ctx, siteA, siteB, time.Now()); err != nil {
		t.Fatalf("%v\n%s", err, w.state(t.Context()))
	}
	w.writeAWhile(ctx)
	w.judgeFleet(ctx, t, siteA)
}
