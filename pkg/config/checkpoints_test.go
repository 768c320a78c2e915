package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/config"
)

func TestCheckpointsHaveDefaultsAndBounds(t *testing.T) {
	c := config.Checkpoints{Every: config.Duration(5 * time.Second), Keep: config.Keep{Age: config.Duration(24 * time.Hour), Count: 120, Bytes: 16 << 30}}
	for _, x := range []struct{ section, want string }{
		{"", ""},
		{"checkpoints: {every: 2s, keep: {count: 10}}", ""},
		{"checkpoints: {every: 200ms}", "groups[0].checkpoints.every: 200ms is too often"},
		{"checkpoints: {every: 1m, keep: {age: 30s}}", "groups[0].checkpoints.keep.age: 30s is less"},
		{"checkpoints: {keep: {count: 1}}", "groups[0].checkpoints.keep.count: 1 is out of range"},
		{"checkpoints: {keep: {bytes: 4KiB}}", "groups[0].checkpoints.keep.bytes: 4KiB is too small"},
		{"checkpoints: {keeps: 3}", "keeps"},
		{"checkpoints: {app_every: 15m}\n    vms: [{id: db}]", ""},
		{"checkpoints: {app_every: 15m}", "groups[0].checkpoints.app_every: is set, and the group has no VMs"},
		{"checkpoints: {app_every: 2s}\n    vms: [{id: db}]", "groups[0].checkpoints.app_every: 2s is too often"},
		{"checkpoints: {app_every: 15m, disabled: true}\n    vms: [{id: db}]", "groups[0].checkpoints.app_every: is set, and checkpoints are disabled"},
		{"checkpoints: {app_every: 25h}\n    vms: [{id: db}]", "groups[0].checkpoints.app_every: 25h0m0s is more than checkpoints.keep.age"},
	} {
		_, err := config.Parse("x.yaml", []byte("groups:\n  - id: erp\n    "+x.section+"\n"))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if x.want == "" && strings.Contains(text, "checkpoints") || !strings.Contains(text, x.want) {
			t.Errorf("%q: %s", x.section, text)
		}
	}
	if got := (config.Group{Checkpoints: config.Checkpoints{AppEvery: config.Duration(time.Minute)}}).Domain().Checkpoints.AppEvery; got != time.Minute {
		t.Errorf("app_every: %s", got)
	}
	if d := (config.Group{}).Domain().Checkpoints.WithDefaults(); d != (config.Group{Checkpoints: c}).Domain().Checkpoints {
		t.Errorf("defaults: %+v", d)
	}
}
