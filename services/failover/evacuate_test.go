package failover

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestEvacuationEndsOnlyByWhatIsKnownOfTheMove(t *testing.T) {
	const before, after = domain.Epoch(257), domain.Epoch(514)
	for _, c := range []struct {
		name    string
		state   string
		known   bool
		desired domain.Epoch
		silent  bool
		want    verdict
	}{
		{"its run goes on", api.StepRunning, true, before, false, keepDown},
		{"its run goes on, past the change of the desired site", api.StepRunning, true, after, false, keepDown},
		{"done, and this site does not know yet whose the group is", api.StepDone, true, before, false, keepDown},
		{"done, and this site knows", api.StepDone, true, after, false, moved},
		{"done, and its leader died before it could tell this site", "", false, before, true, abandoned},
		{"failed", api.StepFailed, true, before, false, abandoned},
		{"failed after the change of the desired site", api.StepFailed, true, after, false, abandoned},
		{"its leader is silent", "", false, before, false, keepDown},
		{"its leader is silent for too long", "", false, before, true, abandoned},
		{"its leader was lost after the move: a failover need not wait", "", false, after, false, moved},
	} {
		if got := judge(evacuation{epoch: before}, c.state, c.known, c.desired, c.silent); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		}
	}
}
