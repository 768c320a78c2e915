package failover

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestARunIsNeededWhileOnlyItSaysWhereAVMWasStarted(t *testing.T) {
	mk := func(e domain.Epoch, state, started string) api.Run {
		return api.Run{Leader: "a", State: state, Epochs: map[domain.GroupID]domain.Epoch{"erp": e},
			Steps: []api.Step{{ID: "start.db", Kind: "start_vm", Group: "erp", VM: "db", Result: started}}}
	}
	const here = `{"host":"a-h2","vm":{}}`
	other := api.Run{Leader: "a", State: api.StepFailed, Epochs: map[domain.GroupID]domain.Epoch{}} // of another group, without quorum
	for name, c := range map[string]struct {
		run   api.Run
		later []api.Run
		want  bool
	}{
		"it goes on":                        {mk(257, api.StepRunning, ""), nil, true},
		"the last of its epoch":             {mk(257, api.StepDone, here), []api.Run{other, other}, true},
		"a later one failed before it says": {mk(257, api.StepDone, here), []api.Run{mk(257, api.StepFailed, "")}, true},
		"a later one says so as well":       {mk(257, api.StepFailed, here), []api.Run{mk(257, api.StepDone, here)}, false},
		"a newer epoch":                     {mk(257, api.StepDone, here), []api.Run{mk(513, api.StepFailed, "")}, false},
		"it never had an epoch":             {other, nil, false},
	} {
		if got := needed(c.run, c.later); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
