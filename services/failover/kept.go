package failover

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// prune drops the oldest run that nothing depends on any more; all are kept when there is none.
func prune(runs []*run.Live) []*run.Live {
	all := make([]api.Run, len(runs))
	for i, l := range runs {
		all[i] = l.Snapshot()
	}
	for i := range all {
		if !needed(all[i], all[i+1:]) {
			return slices.Delete(slices.Clone(runs), i, i+1)
		}
	}
	return runs
}

// needed reports whether a run must be remembered beside later ones: it goes on, or only it says how a group was brought up
// under its newest epoch, or where one of its VMs was started.
func needed(r api.Run, later []api.Run) bool {
	if r.State == api.StepRunning {
		return true
	}
	for g, e := range r.Epochs {
		newer, again := false, false
		for _, x := range later {
			newer = newer || x.Epochs[g] > e
			again = again || x.Epochs[g] == e && x.Leader == r.Leader
		}
		if !newer && (!again || saysWhere(r, g, e, later)) {
			return true
		}
	}
	return false
}

// saysWhere reports whether a run has the place of a VM of a group that no later run under the epoch has.
func saysWhere(r api.Run, g domain.GroupID, e domain.Epoch, later []api.Run) bool {
	place := func(x api.Run, v domain.VMID) domain.HostID {
		var in startResult
		_ = result(x, plan.ID(plan.KindStart, string(v)), &in) // not there: no place
		return in.Host
	}
	for _, st := range r.Steps {
		if st.Kind != plan.KindStart || st.Group != g || place(r, st.VM) == "" {
			continue
		}
		if !slices.ContainsFunc(later, func(x api.Run) bool { return x.Leader == r.Leader && x.Epochs[g] == e && place(x, st.VM) != "" }) {
			return true
		}
	}
	return false
}
