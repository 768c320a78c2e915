package whatif

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// underWay is the run that a group is in now.
func (w world) underWay(g domain.GroupID) (api.Run, bool) {
	r, ok := w.Runs[g]
	return r, ok && r.State == api.StepRunning
}

// ledRuns are the runs that a site leads, oldest first.
func (w world) ledRuns(self domain.SiteID) []api.Run {
	var out []api.Run
	for _, r := range w.Runs {
		if r.Leader == self && !slices.ContainsFunc(out, func(x api.Run) bool { return x.ID == r.ID }) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b api.Run) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID)) })
	return out
}

// goesOn follows the run that a group is in past the loss, and reports whether it brings the group to another site.
func (w world) goesOn(f *Fate, g domain.Group, r api.Run) bool {
	holder := w.Votes[g.ID].Holder
	f.Run = r.ID
	f.why("run %s (%s to site %s, by %s) is under way, so that nothing of this is certain", r.ID, r.Kind, r.Leader, r.By)
	if why := w.stuck(g, r); why != "" {
		f.why("the run does not come to its end: %s", why)
		if holder == r.From && w.canHold(holder, g.ID) && slices.ContainsFunc(r.Steps, func(s api.Step) bool {
			return s.Group == g.ID && s.Kind == plan.KindEvacuate && s.State != api.StepPending
		}) {
			f.why("its VMs were stopped for the move: site %s starts them again when the run has failed, or was not heard of for a while", holder)
		}
		return false
	}
	if holder == r.Leader {
		f.why("the run goes on, and brings it up at site %s", holder)
		return false
	}
	f.What, f.To = Moves, r.Leader
	f.why("the run goes on: site %s has %s and is granted the group", r.Leader, w.count(r.Leader, g.ID))
	w.consequences(f, g, r.From, slices.DeleteFunc(slices.Clone(r.Steps), func(s api.Step) bool { return s.State == api.StepDone }))
	if planned(r) {
		f.Loss = &api.LossEstimate{Known: true, Text: "nothing"}
	} else if e, ok := r.Estimate[g.ID]; ok {
		f.Loss = &e
	}
	return true
}

func planned(r api.Run) bool { return r.Kind == api.RunSwitchover || r.Kind == api.RunFailback }

// stuck is why a run cannot bring a group to its leader's site after the loss; "" when it can.
func (w world) stuck(g domain.Group, r api.Run) string {
	holder := w.Votes[g.ID].Holder
	if !w.alive(r.Leader) {
		return fmt.Sprintf("site %s, which leads it, or its quorum service is lost", r.Leader)
	}
	if holder == r.Leader || !planned(r) {
		if holder != r.Leader && holder != "" && w.canHold(holder, g.ID) {
			return fmt.Sprintf("site %s still holds the lease, and keeps it", holder)
		}
		return w.refused(g, r.Leader, r.AcceptLoss[g.ID])
	}
	if holder == "" && slices.ContainsFunc(r.Steps, func(s api.Step) bool { return s.Group == g.ID && s.Kind == plan.KindRelease && s.State == api.StepDone }) {
		return w.refused(g, r.Leader, r.AcceptLoss[g.ID])
	}
	switch {
	case holder == "" || !w.canHold(holder, g.ID) || !w.reaches(string(r.Leader), string(holder)):
		return fmt.Sprintf("site %s cannot hand it over any more", r.From)
	case !w.canHold(r.Leader, g.ID):
		return fmt.Sprintf("site %s is not granted it: only %s", r.Leader, w.count(r.Leader, g.ID))
	}
	_, _, err := policy.Ready(w.copiesAt(g.ID, holder), g.ID, holder, r.Leader) // what it lacks it gets before the release
	if demoted := slices.ContainsFunc(r.Steps, func(s api.Step) bool {
		return s.Group == g.ID && s.Kind == plan.KindDemote && s.State != api.StepPending
	}); demoted {
		return ""
	}
	return textOf(err)
}

// bringsUp lets the site that is to serve a group bring it up, for which nothing needs to be a disaster, and reports whether it does.
func (w world) bringsUp(f *Fate, g api.GroupDesired) bool {
	if w.refused(g.Group, g.Site, false) != "" {
		return false
	}
	steps, err := w.steps(policy.PlanOf(w.List, f.Group), []domain.GroupID{f.Group}, api.RunStart, g.Site, "")
	if err != nil {
		return false
	}
	f.What, f.To = Moves, g.Site
	f.why("site %s is to serve it (desired state), has %s, and brings it up by itself", g.Site, w.count(g.Site, f.Group))
	w.consequences(f, g.Group, f.From, steps)
	return true
}
