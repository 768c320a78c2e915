package declaration_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/declaration"
)

const s30 = 30 * time.Second

func accept(w *declaration.Word) { w.AcceptLoss = true }

func TestAnAutomaticGroupIsDeclaredAfterItsHoldDownAndOverWhenItsRunIsDone(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "suspects").health("a", "confirms").after(29 * time.Second).after(time.Second).
		after(time.Second).ends(api.StepDone).after(time.Minute).is(`
health suspects a | d1-a suspected, erp suspected 0/0
health confirms a | d1-a held_down, erp held_down 0/0
after 29s
after 1s | d1-a declared, erp declared 0/0 | begin r1 for [erp] by policy, loss accepted [erp=false]
after 1s | d1-a declared, erp declared 0/0
run r1 ends done | d1-a over, erp over 0/0
after 1m0s`)
}

func TestARunThatFailsIsBegunAgainUnderTheSameDeclaration(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverAuto, 0)).health("a", "confirms")
	w.in.Held["erp"] = "the last run failed a moment ago"
	w.ends(api.StepFailed)
	delete(w.in.Held, "erp")
	w.after(time.Second).ends(api.StepDone).is(`
health confirms a | d1-a declared, erp declared 0/0 | begin r1 for [erp] by policy, loss accepted [erp=false]
run r1 ends failed | d1-a declared, erp declared 0/0
after 1s | begin r2 for [erp] by policy, loss accepted [erp=false]
run r2 ends done | d1-a over, erp over 0/0`)
}

func TestTheHoldDownBeginsAnewWhenTheLossIsNotConfirmedAnyMore(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").after(29*time.Second).health("a", "suspects").health("a", "confirms").
		after(29*time.Second).health("a", "sees").after(time.Minute).is(`
health confirms a | d1-a held_down, erp held_down 0/0
after 29s
health suspects a | d1-a suspected, erp suspected 0/0
health confirms a | d1-a held_down, erp held_down 0/0
after 29s
health sees a | d1-a withdrawn, erp withdrawn 0/0
after 1m0s`)
}

func TestAnObserverThatDoubtsItselfHoldsAHoldDownUpAndTakesNothingBack(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").after(20*time.Second).health("a", "says nothing of").
		after(time.Hour).health("a", "confirms").after(9 * time.Second)
	w.in.Held["erp"] = "group erp is in run x"
	w.after(time.Second).health("a", "says nothing of")
	delete(w.in.Held, "erp")
	w.after(time.Minute).health("a", "confirms").health("a", "says nothing of").health("a", "sees").is(`
health confirms a | d1-a held_down, erp held_down 0/0
after 20s
health says nothing of a
after 1h0m0s
health confirms a
after 9s
after 1s | d1-a declared, erp declared 0/0
health says nothing of a
after 1m0s
health confirms a | begin r1 for [erp] by policy, loss accepted [erp=false]
health says nothing of a | d1-a declared, erp declared 0/0
health sees a`)
	tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").health("a", "says nothing of").health("a", "suspects").after(time.Hour).
		health("a", "confirms").is(`
health confirms a | d1-a held_down, erp held_down 0/0
health says nothing of a
health suspects a | d1-a suspected, erp suspected 0/0
after 1h0m0s
health confirms a | d1-a held_down, erp held_down 0/0`)
}

func TestAGroupThatAsksOnePersonIsDeclaredWhenOneApproves(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverConfirm, s30)).health("a", "confirms").after(s30).after(time.Hour).says("ann", declaration.Approve, nil).
		ends(api.StepDone).is(`
health confirms a | d1-a held_down, erp held_down 0/1
after 30s | d1-a awaiting_approval, erp awaiting_approval 0/1
after 1h0m0s
ann says approve | d1-a declared, erp declared 1/1 | begin r1 for [erp] by ann, loss accepted [erp=false]
run r1 ends done | d1-a over, erp over 1/1`)
}

func TestAGroupThatAsksTwoPeopleIsDeclaredWhenTheSecondApproves(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverConfirm, s30, two)).health("a", "confirms").after(s30).says("ann", declaration.Approve, nil).
		says("ann", declaration.Approve, nil).after(time.Minute).says("ben", declaration.Approve, nil).is(`
health confirms a | d1-a held_down, erp held_down 0/2
after 30s | d1-a awaiting_approval, erp awaiting_approval 0/2
ann says approve | d1-a awaiting_approval, erp awaiting_approval 1/2
ann says approve
after 1m0s
ben says approve | d1-a declared, erp declared 2/2 | begin r1 for [erp] by ben, loss accepted [erp=false]`)
}

func TestAPersonsWordDoesNotWaitForTheHoldDown(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, time.Hour), group("log", domain.FailoverConfirm, time.Hour, two)).health("a", "confirms").
		says("ann", declaration.Approve, nil).says("ben", declaration.Approve, nil).is(`
health confirms a | d1-a held_down, erp held_down 0/0, log held_down 0/2
ann says approve | d1-a awaiting_approval, erp declared 1/0, log awaiting_approval 1/2 | begin r1 for [erp] by ann, loss accepted [erp=false]
ben says approve | d1-a declared, erp declared 1/0, log declared 2/2 | begin r2 for [log] by ben, loss accepted [log=false]`)
}

func TestASiteThatComesBackWithdrawsWhatAwaitsApproval(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).health("a", "confirms").says("ann", declaration.Approve, nil).health("a", "says nothing of").
		health("a", "sees").says("ben", declaration.Approve, nil).health("a", "confirms").is(`
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/2
ann says approve | d1-a awaiting_approval, erp awaiting_approval 1/2
health says nothing of a
health sees a | d1-a withdrawn, erp withdrawn 1/2
ben says approve: approve declaration d1-a: refused: it is withdrawn
health confirms a | d2-a awaiting_approval, erp awaiting_approval 0/2`)
}

func TestApprovalsExpire(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).health("a", "confirms").says("ann", declaration.Approve, nil).after(time.Hour+time.Second).
		says("ben", declaration.Approve, nil).is(`
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/2
ann says approve | d1-a awaiting_approval, erp awaiting_approval 1/2
after 1h0m1s | d1-a awaiting_approval, erp awaiting_approval 0/2
ben says approve | d1-a awaiting_approval, erp awaiting_approval 1/2`)
}

func TestWhoeverIsNoOperatorIsRefused(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverConfirm, 0)).health("a", "confirms").says("b.reader", declaration.Approve, func(w *declaration.Word) { w.Operator = false }).
		says("", declaration.Approve, nil)
	w.is(`
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/1
b.reader says approve: approve declaration d1-a: refused: b.reader is no operator: only operators decide
 says approve: approve declaration d1-a: invalid: say why, and who you are`)
	if _, _, _, err := declaration.Hear(w.s, w.in, declaration.Word{What: declaration.Approve, ID: "d1-a", Approval: api.Approval{By: "x", Why: "y"}}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestAWordForAnotherEpochThanNowIsRefused(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).health("a", "confirms").says("ann", declaration.Approve, nil)
	w.in.Groups = slices.Clone(w.in.Groups)
	w.in.Groups[0].Epoch = 513 // a was alive after all, and took a new one
	w.says("ben", declaration.Approve, nil).tick("time passes").says("ben", declaration.Approve, func(w *declaration.Word) { w.Epochs = map[domain.GroupID]domain.Epoch{"erp": 257} }).
		says("ben", declaration.Approve, nil)
	w.in.Groups = slices.Clone(w.in.Groups)
	w.in.Groups[0].Site, w.in.Groups[0].Epoch = "c", 770
	w.says("ann", declaration.Approve, nil).tick("time passes").is(`
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/2
ann says approve | d1-a awaiting_approval, erp awaiting_approval 1/2
ben says approve: approve declaration d1-a: stale epoch: group erp: this is about epoch 0.1.1 at site a, and it has epoch 0.2.1 at site a now: look at it again
time passes | d1-a awaiting_approval, erp awaiting_approval 0/2
ben says approve: approve declaration d1-a: stale epoch: group erp: this is about epoch 0.1.1 at site a, and it has epoch 0.2.1 at site a now: look at it again
ben says approve | d1-a awaiting_approval, erp awaiting_approval 1/2
ann says approve: approve declaration d1-a: stale epoch: group erp: this is about epoch 0.2.1 at site a, and it has epoch 0.3.2 at site c now: look at it again
time passes | d1-a withdrawn, erp withdrawn 1/2`)
}

func TestAManualGroupAsksNobodyAndTakesOnePersonsWord(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverManual, 0)).health("a", "confirms").after(time.Hour).says("ann", declaration.Approve, nil).is(`
health confirms a | d1-a confirmed, erp confirmed 0/1
after 1h0m0s
ann says approve | d1-a declared, erp declared 1/1 | begin r1 for [erp] by ann, loss accepted [erp=false]`)
}

func TestAPersonSaysThatASiteIsLostBeforeHealthDoes(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverManual, 0), group("log", domain.FailoverConfirm, 0, two)).says("ann", declaration.Open, nil).health("a", "says nothing of").
		health("a", "sees").says("ben", declaration.Approve, nil).is(`
ann says open | d1-a awaiting_approval, erp declared 1/1, log awaiting_approval 1/2 | begin r1 for [erp] by ann, loss accepted [erp=false]
health says nothing of a | d1-a awaiting_approval, erp declared 1/1, log awaiting_approval 1/2
health sees a
ben says approve | d1-a declared, erp declared 1/1, log declared 2/2 | begin r2 for [log] by ben, loss accepted [log=false]`)
}

func TestWhatAPersonOpenedEndsWhenItsApprovalsExpire(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).says("ann", declaration.Open, nil).after(2 * time.Hour).is(`
ann says open | d1-a awaiting_approval, erp awaiting_approval 1/2
after 2h0m0s | d1-a withdrawn, erp withdrawn 0/2`)
}

func TestWhatAPersonWithdrewIsNotOpenedAgainBeforeTheSiteWasSeen(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").says("ann", declaration.Withdraw, nil).after(time.Hour).restarts().
		health("a", "suspects").health("a", "sees").health("a", "confirms").is(`
health confirms a | d1-a held_down, erp held_down 0/0
ann says withdraw | d1-a withdrawn, erp withdrawn 0/0
after 1h0m0s
the service is started again
health suspects a
health sees a | d1-a withdrawn, erp withdrawn 0/0
health confirms a | d2-a held_down, erp held_down 0/0`)
}

func TestWhatAPersonWithdrewByNameBarsNoOtherGroup(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, s30), group("log", domain.FailoverAuto, s30)).health("a", "suspects").
		says("ann", declaration.Withdraw, func(w *declaration.Word) { w.Groups = []domain.GroupID{"erp"} }).health("a", "says nothing of").
		health("a", "confirms").after(s30).ends(api.StepDone).after(s30).restarts().health("a", "sees").is(`
health suspects a | d1-a suspected, erp suspected 0/0, log suspected 0/0
ann says withdraw | d1-a suspected, erp withdrawn 0/0, log suspected 0/0
health says nothing of a
health confirms a | d1-a held_down, erp withdrawn 0/0, log held_down 0/0
after 30s | d1-a declared, erp withdrawn 0/0, log declared 0/0 | begin r1 for [log] by policy, loss accepted [log=false]
run r1 ends done | d1-a over, erp withdrawn 0/0, log over 0/0
after 30s
the service is started again
health sees a | d1-a over, erp withdrawn 0/0, log over 0/0`)
	w := tell(t, "b", group("erp", domain.FailoverAuto, 0), group("log", domain.FailoverManual, 0)).says("ann", declaration.Open, func(w *declaration.Word) { w.Groups = []domain.GroupID{"log"} })
	w.ends(api.StepDone).health("a", "suspects").says("ann", declaration.Withdraw, func(w *declaration.Word) { w.ID, w.Groups = "d2-a", []domain.GroupID{"erp"} })
	w.in.Groups = append(w.in.Groups, group("new", domain.FailoverAuto, 0))
	w.health("a", "confirms").is(`
ann says open | d1-a declared, log declared 1/1 | begin r1 for [log] by ann, loss accepted [log=false]
run r1 ends done | d1-a over, log over 1/1
health suspects a | d2-a suspected, erp suspected 0/0
ann says withdraw | d2-a withdrawn, erp withdrawn 0/0
health confirms a | d3-a declared, new declared 0/0 | begin r2 for [new] by policy, loss accepted [new=false]`)
}

func TestAPersonOpensWhatWasWithdrawn(t *testing.T) {
	tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").says("ann", declaration.Withdraw, nil).says("ann", declaration.Open, nil).
		says("ben", declaration.Withdraw, func(w *declaration.Word) { w.ID = "d2-a" }).is(`
health confirms a | d1-a held_down, erp held_down 0/0
ann says withdraw | d1-a withdrawn, erp withdrawn 0/0
ann says open | d1-a withdrawn, erp withdrawn 0/0 | d2-a declared, erp declared 1/0 | begin r1 for [erp] by ann, loss accepted [erp=false]
ben says withdraw: withdraw declaration d2-a: refused: no group of it can be decided now: it is declared`)
}

func TestAutomaticOnlyInItsWindow(t *testing.T) {
	night := func(g *domain.Group) { g.Automatic.Windows = []domain.Window{{From: "18:00", To: "06:00"}} }
	tell(t, "b", group("erp", domain.FailoverAuto, s30, night)).health("a", "confirms").after(time.Minute).after(6 * time.Hour).is(`
health confirms a | d1-a held_down, erp held_down 0/1
after 1m0s | d1-a awaiting_approval, erp awaiting_approval 0/1
after 6h0m0s | d1-a declared, erp declared 0/0 | begin r1 for [erp] by policy, loss accepted [erp=false]`)
}

func TestAutomaticOnlySoOftenADay(t *testing.T) {
	once := func(g *domain.Group) { g.Automatic.PerDay = 1 }
	w := tell(t, "b", group("erp", domain.FailoverAuto, 0, once)).health("a", "confirms").ends(api.StepDone).health("a", "sees")
	w.in.Groups[0].Site = "a" // it went home
	w.in.Wall = w.in.Wall.Add(3 * time.Hour)
	w.health("a", "confirms").after(22 * time.Hour).is(`
health confirms a | d1-a declared, erp declared 0/0 | begin r1 for [erp] by policy, loss accepted [erp=false]
run r1 ends done | d1-a over, erp over 0/0
health sees a
health confirms a | d2-a awaiting_approval, erp awaiting_approval 0/1
after 22h0m0s | d2-a declared, erp declared 0/0 | begin r2 for [erp] by policy, loss accepted [erp=false]`)
}

func TestTheHeirLeadsAndTheOtherOnlyWhenTheHeirIsLost(t *testing.T) {
	groups := []api.GroupDesired{group("erp", domain.FailoverAuto, 0)}
	tell(t, "c", groups...).health("a", "confirms").health("b", "confirms").is(`
health confirms a
health confirms b | d1-a declared, erp declared 0/0 | begin r1 for [erp] by policy, loss accepted [erp=true]`)
	tell(t, "n", groups...).health("a", "confirms").health("b", "confirms").is(`
health confirms a
health confirms b`)
	tell(t, "a", groups...).health("a", "confirms").is(`
health confirms a`)
	w := tell(t, "c", group("erp", domain.FailoverConfirm, 0)).health("a", "confirms").health("b", "confirms")
	w.health("b", "sees").is(`
health confirms a
health confirms b | d1-a awaiting_approval, erp awaiting_approval 0/1
health sees b | d1-a withdrawn, erp withdrawn 0/1`)
}

func TestADisasterIsLeftToWhomPlacementLets(t *testing.T) {
	pinned, prefers, free := group("pin", domain.FailoverAuto, 0), group("pre", domain.FailoverAuto, 0), group("any", domain.FailoverAuto, 0)
	pinned.Group.Placement.Pinned, prefers.Group.Placement.Preferred = []domain.SiteID{"a"}, "c"
	for _, c := range []struct {
		self    domain.SiteID
		drained []domain.SiteID
		want    []domain.GroupID
	}{
		{"b", nil, []domain.GroupID{"any"}},
		{"c", nil, []domain.GroupID{"pre"}},
		{"b", []domain.SiteID{"c"}, []domain.GroupID{"any", "pre"}},
		{"b", []domain.SiteID{"b"}, nil},
		{"c", []domain.SiteID{"b"}, []domain.GroupID{"any", "pre"}},
	} {
		w := tell(t, c.self, pinned, prefers, free)
		w.in.Drained = c.drained
		w.health("a", "confirms")
		var got []domain.GroupID
		for _, r := range w.in.Runs {
			got = append(got, declaration.GroupsOf(r)...)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("at %s, drained %v: %v, want %v", c.self, c.drained, got, c.want)
		}
	}
	w := tell(t, "b", pinned)
	w.says("ann", declaration.Open, func(w *declaration.Word) { w.Groups = []domain.GroupID{"pin"} })
	if got := strings.Join(w.lines, "\n"); len(w.in.Runs) != 0 || !strings.Contains(got, "placement.pinned") {
		t.Errorf("a person's word goes over placement: %s", got)
	}
}

func TestAnAsynchronousGroupIsApprovedWithItsLossOnly(t *testing.T) {
	w := tell(t, "c", group("erp", domain.FailoverConfirm, 0)).health("b", "confirms").health("a", "confirms")
	w.in.Surveys = map[domain.GroupID]api.DeclarationSurvey{"erp": {Loss: api.LossEstimate{Text: "3.2 s, 41 MB"}}}
	w.says("ann", declaration.Approve, nil).says("ann", declaration.Approve, accept).is(`
health confirms b
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/1
ann says approve: approve declaration d1-a: refused: group erp is asynchronous: about 3.2 s, 41 MB would be lost; accept the loss to go on
ann says approve | d1-a declared, erp declared 1/1 | begin r1 for [erp] by ann, loss accepted [erp=true]`)
}

func TestAnOrderIsOneAttempt(t *testing.T) {
	order := func(id domain.RunID) func(*declaration.Word) {
		return func(w *declaration.Word) {
			w.Groups, w.Orders = []domain.GroupID{"erp"}, map[domain.GroupID]api.DeclaredOrder{"erp": {Run: id, Plan: "main", Checkpoint: 42}}
		}
	}
	w := tell(t, "b", group("erp", domain.FailoverConfirm, 0)).health("a", "confirms").says("ann", declaration.Open, order("mine")).
		says("ben", declaration.Approve, nil).ends(api.StepFailed).says("ann", declaration.Open, order("again"))
	if got := w.s.List[0].Groups[0].Order; got == nil || got.Run != "again" || got.Checkpoint != 42 {
		t.Errorf("order %+v", got)
	}
	w.is(`
health confirms a | d1-a awaiting_approval, erp awaiting_approval 0/1
ann says open | d1-a declared, erp declared 1/1 | begin mine for [erp] by ann, loss accepted [erp=false]
ben says approve: approve declaration d1-a: refused: no group of it can be decided now: it is declared
run mine ends failed | d1-a awaiting_approval, erp awaiting_approval 0/1
ann says open | d1-a declared, erp declared 1/1 | begin again for [erp] by ann, loss accepted [erp=false]`)
}

func TestWhatASecondPersonApprovesOfAnOrderIsARunOfItsOwn(t *testing.T) {
	order := &api.DeclaredOrder{Run: "mine", Plan: "main"}
	tell(t, "b", group("web", domain.FailoverManual, 0), group("db", domain.FailoverConfirm, 0, two)).says("ann", declaration.Open, func(w *declaration.Word) {
		w.Orders = map[domain.GroupID]api.DeclaredOrder{"web": *order, "db": *order}
	}).ends(api.StepDone).says("ben", declaration.Approve, nil).after(time.Second).ends(api.StepDone).is(`
ann says open | d1-a awaiting_approval, db awaiting_approval 1/2, web declared 1/1 | begin mine for [web] by ann, loss accepted [web=false]
run mine ends done | d1-a awaiting_approval, db awaiting_approval 1/2, web over 1/1
ben says approve | d1-a declared, db declared 2/2, web over 1/1 | begin r2 for [db] by ben, loss accepted [db=false]
after 1s | d1-a declared, db declared 2/2, web over 1/1
run r2 ends done | d1-a over, db over 2/2, web over 1/1`)
}

func TestARunThatFailedBeforeAWordIsNotTheWordsAttempt(t *testing.T) {
	erp := func(w *declaration.Word) { w.Groups = []domain.GroupID{"erp"} }
	w := tell(t, "b", group("erp", domain.FailoverManual, 0), group("log", domain.FailoverConfirm, 0, two)).says("ann", declaration.Open, nil).ends(api.StepFailed).after(time.Second)
	w.in.Held["erp"] = "another run has it"
	w.says("ann", declaration.Open, erp).after(time.Second)
	delete(w.in.Held, "erp")
	w.after(time.Second).is(`
ann says open | d1-a awaiting_approval, erp declared 1/1, log awaiting_approval 1/2 | begin r1 for [erp] by ann, loss accepted [erp=false]
run r1 ends failed | d1-a awaiting_approval, erp withdrawn 0/1, log awaiting_approval 1/2
after 1s
ann says open | d1-a awaiting_approval, erp declared 1/1, log awaiting_approval 1/2
after 1s
after 1s | begin r2 for [erp] by ann, loss accepted [erp=false]`)
}

func TestAnOrderWhoseRunCannotBeginIsToldAndForgotten(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverManual, 0))
	w.in.Held["erp"] = "in run x"
	w.says("ann", declaration.Open, func(w *declaration.Word) { w.Orders = map[domain.GroupID]api.DeclaredOrder{"erp": {Run: "mine"}} })
	w.in.Failed = map[domain.GroupID]string{"erp": "the plan has a circle"}
	w.tick("it cannot begin").is(`
ann says open | d1-a declared, erp declared 1/1
it cannot begin | d1-a withdrawn, erp withdrawn 0/1`)
}

func TestGroupsOfManyPoliciesGoTheirOwnWays(t *testing.T) {
	w := tell(t, "b", group("auto", domain.FailoverAuto, s30), group("one", domain.FailoverConfirm, time.Minute), group("two", domain.FailoverConfirm, 0, two), group("man", domain.FailoverManual, 0)).
		health("a", "suspects").health("a", "confirms").after(s30).ends(api.StepDone).after(s30).
		says("ann", declaration.Approve, func(w *declaration.Word) { w.Groups = []domain.GroupID{"one", "two"} }).ends(api.StepDone).
		says("ben", declaration.Approve, nil).ends(api.StepDone)
	w.is(`
health suspects a | d1-a suspected, auto suspected 0/0, man suspected 0/1, one suspected 0/1, two suspected 0/2
health confirms a | d1-a awaiting_approval, auto held_down 0/0, man confirmed 0/1, one held_down 0/1, two awaiting_approval 0/2
after 30s | d1-a awaiting_approval, auto declared 0/0, man confirmed 0/1, one held_down 0/1, two awaiting_approval 0/2 | begin r1 for [auto] by policy, loss accepted [auto=false]
run r1 ends done | d1-a awaiting_approval, auto over 0/0, man confirmed 0/1, one held_down 0/1, two awaiting_approval 0/2
after 30s | d1-a awaiting_approval, auto over 0/0, man confirmed 0/1, one awaiting_approval 0/1, two awaiting_approval 0/2
ann says approve | d1-a awaiting_approval, auto over 0/0, man confirmed 0/1, one declared 1/1, two awaiting_approval 1/2 | begin r2 for [one] by ann, loss accepted [one=false]
run r2 ends done | d1-a awaiting_approval, auto over 0/0, man confirmed 0/1, one over 1/1, two awaiting_approval 1/2
ben says approve | d1-a declared, auto over 0/0, man declared 1/1, one over 1/1, two declared 2/2 | begin r3 for [man two] by ben, loss accepted [man=false two=false]
run r3 ends done | d1-a over, auto over 0/0, man over 1/1, one over 1/1, two over 2/2`)
	x := w.s.List[0]
	for i, a := range x.Acts {
		if a.Number != i+1 {
			t.Errorf("act %d has number %d", i, a.Number)
		}
	}
	if x.Ended.IsZero() || x.State != api.DeclarationOver {
		t.Errorf("%+v", x)
	}
}

// TestARestartInEachStateGoesOnWithWhatIsDurable: nothing is begun twice, and nothing that was decided is forgotten.
func TestARestartInEachStateGoesOnWithWhatIsDurable(t *testing.T) {
	for state, w := range map[string]*tale{
		"suspected":         tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "suspects"),
		"confirmed":         tell(t, "b", group("erp", domain.FailoverManual, 0)).health("a", "confirms"),
		"held_down":         tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms"),
		"awaiting_approval": tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).health("a", "confirms").says("ann", declaration.Approve, nil),
		"declared":          tell(t, "b", group("erp", domain.FailoverAuto, 0)).health("a", "confirms").tick("time passes"),
		"withdrawn":         tell(t, "b", group("erp", domain.FailoverAuto, s30)).health("a", "confirms").says("ann", declaration.Withdraw, nil),
		"over":              tell(t, "b", group("erp", domain.FailoverAuto, 0)).health("a", "confirms").ends(api.StepDone),
	} {
		before := w.s.List[0]
		if before.State != state {
			t.Errorf("%s: it is %s", state, before.State)
		}
		w.lines = nil
		w.restarts().tick("time passes")
		if got, want := strings.Join(w.lines, "\n"), "the service is started again\ntime passes"; got != want {
			t.Errorf("%s: after the restart\n%s", state, got)
		}
		if after := w.s.List[0]; after.Version != before.Version || len(w.s.List) != 1 {
			t.Errorf("%s: changed to %+v", state, after)
		}
	}
	// Declared, and killed before its run was begun.
	w := tell(t, "b", group("erp", domain.FailoverAuto, 0)).health("a", "confirms")
	w.in.Runs, w.lines = nil, nil
	w.restarts().tick("time passes").is(`
the service is started again | begin r2 for [erp] by policy, loss accepted [erp=false]
time passes | d1-a declared, erp declared 0/0`)
}

func TestARepeatedWordChangesNothing(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverConfirm, 0, two)).health("a", "confirms").says("ann", declaration.Approve, nil)
	version := w.s.List[0].Version
	w.says("ann", declaration.Approve, nil)
	if got := w.s.List[0]; got.Version != version || len(got.Groups[0].Approvals) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestWhatStillCountsIsNotForgotten(t *testing.T) {
	old := api.Declaration{State: api.DeclarationOver, Ended: noon.Add(-25 * time.Hour), Acts: []api.DeclarationAct{{Number: 3}}, Told: 3, Groups: []api.DeclaredGroup{{Group: "erp"}}}
	for name, c := range map[string]struct {
		change func(*api.Declaration)
		kept   bool
	}{
		"ended long ago": {func(*api.Declaration) {}, false},
		"today":          {func(d *api.Declaration) { d.Ended = noon.Add(-23 * time.Hour) }, true},
		"open":           {func(d *api.Declaration) { d.State, d.Ended = api.DeclarationAwaiting, time.Time{} }, true},
		"barred":         {func(d *api.Declaration) { d.State, d.Barred = api.DeclarationWithdrawn, true }, true},
		"a group barred": {func(d *api.Declaration) { d.Groups = []api.DeclaredGroup{{Group: "erp", Barred: true}} }, true},
		"not told":       {func(d *api.Declaration) { d.Told = 2 }, true},
	} {
		first := old
		c.change(&first)
		got := declaration.Trim([]api.Declaration{first, old, old}, 2, noon)
		if kept := len(got) == 3; kept != c.kept || len(got) < 2 {
			t.Errorf("%s: %d are kept, want it kept: %v", name, len(got), c.kept)
		}
		if all := declaration.Trim([]api.Declaration{first, old}, 2, noon); len(all) != 2 {
			t.Errorf("%s: %d of two are kept", name, len(all))
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	w := tell(t, "b", group("erp", domain.FailoverAuto, s30))
	for range 300 {
		w.health("a", "confirms").health("a", "suspects")
	}
	x := w.s.List[0]
	if len(x.Acts) != 200 || x.Acts[199].Number < 600 {
		t.Errorf("%d acts, the last is number %d", len(x.Acts), x.Acts[len(x.Acts)-1].Number)
	}
}
