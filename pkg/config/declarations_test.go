package config_test

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func changedSample(t *testing.T, change ...string) (config.Config, error) {
	t.Helper()
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	return config.Parse("site.yaml", []byte(strings.NewReplacer(change...).Replace(string(data))))
}

func TestAGroupWithoutAPolicyHasThatOfItsTier(t *testing.T) {
	tiers := "\ndeclarations:\n  tiers:\n    - {tier: 1, failover: auto, hold_down: 20s, automatic: {windows: [{from: '08:00', to: '18:00'}], per_day: 2}}\n    - {tier: 2, failover: confirm, approvers: 2, hold_down: 5m}\ngroups:\n"
	for name, c := range map[string]struct {
		change []string
		want   domain.Group
	}{
		"of tier 1":    {[]string{"\ngroups:\n", tiers, "    failover: auto #", "    #", "    hold_down: 30s\n", ""}, domain.Group{Failover: domain.FailoverAuto, HoldDown: 20 * time.Second, Automatic: domain.Automatic{PerDay: 2, Windows: []domain.Window{{From: "08:00", To: "18:00"}}}}},
		"of tier 2":    {[]string{"\ngroups:\n", tiers, "    failover: auto #", "    #", "    hold_down: 30s\n", "", "tier: 1\n", "tier: 2\n"}, domain.Group{Failover: domain.FailoverConfirm, HoldDown: 5 * time.Minute, Approvers: 2}},
		"of no tier":   {[]string{"    failover: auto #", "    #", "    hold_down: 30s\n", ""}, domain.Group{Failover: domain.FailoverManual, HoldDown: 30 * time.Second}},
		"its own":      {[]string{"\ngroups:\n", tiers, "failover: auto", "failover: manual"}, domain.Group{Failover: domain.FailoverManual, HoldDown: 30 * time.Second}},
		"confirm by 1": {[]string{"failover: auto", "failover: confirm"}, domain.Group{Failover: domain.FailoverConfirm, HoldDown: 30 * time.Second}},
	} {
		cfg, err := changedSample(t, c.change...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		g := cfg.Groups[0].Domain()
		if g.Failover != c.want.Failover || g.HoldDown != c.want.HoldDown || g.Approvers != c.want.Approvers || !reflect.DeepEqual(g.Automatic, c.want.Automatic) {
			t.Errorf("%s: %s after %s, %d approvers, %+v", name, g.Failover, g.HoldDown, g.Approvers, g.Automatic)
		}
	}
}

func TestWhatCannotBeDecidedIsTold(t *testing.T) {
	for change, want := range map[string]string{
		"failover: perhaps":                             "groups[0].failover: \"perhaps\" is not known: use auto or confirm or manual",
		"failover: confirm\n    approvers: 3":           "groups[0].approvers: 3 is out of range: ask 1 to 2 people",
		"failover: auto\n    approvers: 1":              "groups[0].approvers: is set, and failover is \"auto\"",
		"automatic: {per_day: -1}":                      "groups[0].automatic.per_day: -1 is out of range",
		"automatic: {windows: [{from: 8, to: 9}]}":      "groups[0].automatic.windows[0].from",
		"failover: manual\n    automatic: {per_day: 1}": "groups[0].automatic: is set, and failover is \"manual\"",
	} {
		if !strings.HasPrefix(change, "failover") {
			change = "failover: auto\n    " + change
		}
		if _, err := changedSample(t, "failover: auto", change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", change, err)
		}
	}
	for change, want := range map[string]string{
		"approval_lasts: 1s":                                            "declarations.approval_lasts: 1s is out of range",
		"tiers: [{tier: 0, failover: auto}]":                            "declarations.tiers[0].tier: 0 is no tier",
		"tiers: [{tier: 1, failover: auto}, {tier: 1, failover: auto}]": "declarations.tiers[1].tier: 1 stands twice",
		"tiers: [{tier: 1}]":                                            "declarations.tiers[0].failover",
		"tiers: [{tier: 1, failover: auto, hold_down: -1s}]":            "declarations.tiers[0].hold_down",
	} {
		if _, err := changedSample(t, "\ngroups:\n", "\ndeclarations: {"+change+"}\ngroups:\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", change, err)
		}
	}
}
