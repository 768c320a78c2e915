package failover

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
)

// idle is the service of a site that was made, and does nothing by itself.
func (w *world) idle(id domain.SiteID, log *slog.Logger) *service {
	return newService(w.t.Context(), Config{Site: id, Role: domain.SiteData, Timings: timings()}.withDefaults(), Deps{Mesh: w.mesh(id), Tracer: w.trace, Logger: log})
}

// TestWhatCountsIsRecalledHoweverOldAndWhatCannotBeReadStopsNothing: an old declaration that bars its site is read beside the newest,
// and a broken record is told and left out.
func TestWhatCountsIsRecalledHoweverOldAndWhatCannotBeReadStopsNothing(t *testing.T) {
	w := newWorld(t, testGroup(t, "erp", domain.ModeSync, "db"))
	var log bytes.Buffer
	s := w.idle("b", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})))
	long := time.Now().Add(-48 * time.Hour)
	for i := range keptDeclarations + 3 {
		d := api.Declaration{ID: domain.DeclarationID(fmt.Sprintf("d%03d", i)), Site: "a", Leader: "b", State: api.DeclarationWithdrawn, Ended: long, Barred: i == 0}
		if err := s.keep(t.Context(), []api.Declaration{d}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.mesh("b").Local().Append(t.Context(), api.RunSubject("b", "d050", "declaration"), []byte("{"), "broken", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.recall(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := s.ledger.now().List
	if len(got) != keptDeclarations || got[0].ID != "d000" || got[1].ID != "d003" { // the newest without the broken one, and the one that bars
		t.Errorf("%d are recalled, from %s and %s on", len(got), got[0].ID, got[1].ID)
	}
	if !strings.Contains(log.String(), "d050") {
		t.Errorf("the broken record is not told: %s", log.String())
	}
}

// TestAWordIsForItsOwnGroups: other groups go on waiting, what fails with them is not the reply's, and health that is silent confirms nothing.
func TestAWordIsForItsOwnGroups(t *testing.T) {
	erp, log := testGroup(t, "erp", domain.ModeSync, "db"), testGroup(t, "log", domain.ModeSync, "web")
	w := newWorld(t, erp, log)
	s := w.idle("b", nil)
	list := api.GroupList{Groups: []api.GroupDesired{{Group: erp, Site: "a"}, {Group: log, Site: "a"}}}
	word := []domain.GroupID{"erp"}
	s.bump("erp")
	s.bump("log")
	if in := s.declarationInput(list, word); in.Held["erp"] != "" || in.Held["log"] == "" {
		t.Errorf("held: %v; want log alone", in.Held)
	}
	s.closed = true // no run can begin
	for _, g := range []domain.GroupID{"erp", "log"} {
		acts := declaration.Actions{Launch: []declaration.Launch{{Declaration: "d1-a", Site: "a", Groups: []domain.GroupID{g}, AcceptLoss: map[domain.GroupID]bool{}}}}
		if err := s.carryOut(t.Context(), declaration.State{}, acts, list, word); errors.Is(err, domain.ErrUnavailable) != (g == "erp") || (err == nil) != (g == "log") {
			t.Errorf("the run of group %s could not begin, and the word about erp is answered with %v", g, err)
		}
		if s.ledger.failed[g] == "" {
			t.Errorf("that group %s failed is not known", g)
		}
	}
	s.ledger.losses = map[domain.SiteID]declaration.Loss{"a": {Confirmed: true}}
	s.ledger.told = clock.Now()
	if !s.fresh()["a"].Confirmed {
		t.Error("what health just said does not count")
	}
	s.ledger.told = clock.Now().Add(-time.Minute)
	if len(s.fresh()) != 0 {
		t.Error("what health said a minute ago counts")
	}
}

func TestAReplicatorThatHangsCostsTheTimeOfOneCall(t *testing.T) {
	w := newWorld(t)
	w.hangs = true
	s := w.idle("b", nil)
	s.cfg.Timings.Call = 200 * time.Millisecond
	groups := make([]domain.GroupID, 20)
	for i := range groups {
		groups[i] = domain.GroupID(fmt.Sprint("g", i))
	}
	began := time.Now()
	got := s.estimates(t.Context(), groups, nil)
	if took := time.Since(began); took > 10*s.cfg.Timings.Call {
		t.Errorf("%d estimates took %s", len(groups), took)
	}
	if len(got) != len(groups) || !strings.Contains(got["g7"].Text, "not known") {
		t.Errorf("%d estimates, one is %q", len(got), got["g7"].Text)
	}
}
