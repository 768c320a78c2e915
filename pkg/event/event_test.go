package event_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/event/describe"
)

func TestEveryEventIsToldInOneClearLine(t *testing.T) {
	seen := map[string]string{}
	for _, d := range event.Catalogue() {
		e, err := describe.Example(d)
		if err != nil {
			t.Fatal(err)
		}
		text := event.Text(e, d.Example())
		switch {
		case strings.ContainsAny(text, "\n\r\t{") || strings.Contains(text, "  "):
			t.Errorf("%s: %q", d.Type(), text)
		case !strings.Contains(text, strings.ReplaceAll(d.Fact, "_", " ")) && d.Fact != "quorum_phase_changed" && d.Fact != "writes_quarantined" &&
			d.Fact != "in_sync_changed" && d.Fact != "desired_changed":
			t.Errorf("%s does not say what happened: %q", d.Type(), text)
		case seen[text] != "":
			t.Errorf("%s and %s are both told as %q", d.Type(), seen[text], text)
		}
		seen[text] = d.Type()
	}
}

func TestAnUnknownEventIsToldByItsTypeAndPayload(t *testing.T) {
	e := event.Event{Type: "hf.v1.volume.shrunk", Data: json.RawMessage("{\n  \"by\": 4096\n}")}
	if got := event.Text(e, nil); got != `volume.shrunk { "by": 4096 }` {
		t.Errorf("%q", got)
	}
}

func TestEventsOfAGroupAreFoundWhateverTheyAreAbout(t *testing.T) {
	of := map[string]bool{}
	for _, d := range event.Catalogue() {
		if slices.Contains(event.Groups(d.Example()), domain.GroupID("erp")) {
			of[d.Type()] = true
		}
	}
	for _, typ := range []string{"hf.v1.group.promoted", "hf.v1.run.started", "hf.v1.run.step_done", "hf.v1.vm.killed", "hf.v1.name.changed", "hf.v1.disaster.declared", "hf.v1.group.writes_quarantined"} {
		if !of[typ] {
			t.Errorf("%s is not of the group", typ)
		}
	}
	for _, typ := range []string{"hf.v1.site.lost", "hf.v1.plan.desired_changed", "hf.v1.host.lost"} {
		if of[typ] {
			t.Errorf("%s is of the group", typ)
		}
	}
}
