package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestGroupShowTellsHowChangesTravelToEachTarget(t *testing.T) {
	v := groupView{
		Desired: api.GroupDesired{Group: domain.Group{ID: "erp", Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}}}, Site: "a"},
		Copies: map[domain.SiteID]api.GroupStatus{"a": {Role: domain.RolePrimary, Targets: []api.TargetStatus{
			{Site: "b", Mode: domain.ModeSync, InSync: true, State: api.TargetStreaming, Way: api.WayLine},
			{Site: "c", Mode: domain.ModeSync, InSync: true, State: api.TargetStreaming, Way: api.WayNATS},
			{Site: "d", Mode: domain.ModeSync, InSync: true, State: api.TargetStreaming, Way: api.WayNATS, NoLine: "d.example.org:4231: connect: connection refused"},
			{Site: "e", Mode: domain.ModeSync, State: api.TargetConnecting},
		}}},
	}
	var out bytes.Buffer
	c := new(cobra.Command)
	c.SetOut(&out)
	if err := v.print(c); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"to b: sync, in sync, by line\n",
		"to c: sync, in sync, through NATS\n",
		"to d: sync, in sync, through NATS (no line: d.example.org:4231: connect: connection refused)\n",
		"to e: sync, catching up (connecting)\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
