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
	if d := (config.Group{}).Domain().Checkpoints.WithDefaults(); d != (config.Group{Checkpoints: c}).Domain().Checkpoints {
		t.Errorf("defaults: %+v", d)
	}
}
