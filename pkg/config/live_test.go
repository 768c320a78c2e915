package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAGroupChangedWhileItRunsObeysTheRulesOfOneThatIsConfigured(t *testing.T) {
	cfg, err := Load("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	good := cfg.Groups[0].Domain()
	if err := cfg.CheckGroup(good); err != nil {
		t.Fatal(err)
	}
	placed := cfg.Groups[0].Domain()
	placed.Placement = domain.Placement{Preferred: "b", Pinned: []domain.SiteID{"a", "b"}, Return: domain.Return{After: time.Hour}}
	if err := cfg.CheckGroup(placed); err != nil {
		t.Fatal(err)
	}
	for says, change := range map[string]func(*domain.Group){
		`"w" is no data site`:          func(g *domain.Group) { g.Targets = []domain.Target{{Site: "w", Mode: domain.ModeAsync}} },
		`"nowhere"`:                    func(g *domain.Group) { g.Targets = []domain.Target{{Site: "nowhere", Mode: domain.ModeAsync}} },
		"is the group's home":          func(g *domain.Group) { g.Targets = []domain.Target{{Site: "a", Mode: domain.ModeSync}} },
		`"often" is not known`:         func(g *domain.Group) { g.Targets = []domain.Target{{Site: "b", Mode: "often"}} },
		`"panic" is not known`:         func(g *domain.Group) { g.OnTargetLoss = "panic" },
		`"jam" is not known`:           func(g *domain.Group) { g.Congestion = "jam" },
		"-1 is no tier":                func(g *domain.Group) { g.Tier = -1 },
		`"x" is no site of the group`:  func(g *domain.Group) { g.Placement.Pinned = []domain.SiteID{"a", "x"} },
		"its home \"a\" may not serve": func(g *domain.Group) { g.Placement.Forbidden = []domain.SiteID{"a"} },
		"site \"b\" may not serve it":  func(g *domain.Group) { g.Placement = domain.Placement{Preferred: "b", Pinned: []domain.SiteID{"a"}} },
		"1s is too short": func(g *domain.Group) {
			g.Placement = domain.Placement{Preferred: "b", Return: domain.Return{After: time.Second}}
		},
		"no site is preferred": func(g *domain.Group) { g.Placement.Return.After = time.Hour },
		"return.after is not":  func(g *domain.Group) { g.Placement.Return.Within = []domain.Window{{From: "01:00", To: "02:00"}} },
		`"noon" is no time of day`: func(g *domain.Group) {
			g.Placement = domain.Placement{Preferred: "b", Return: domain.Return{After: time.Hour, Within: []domain.Window{{From: "noon", To: "02:00"}}}}
		},
		"stands already": func(g *domain.Group) { g.Targets = append(g.Targets[:1:1], g.Targets[0]) },
		"no entry for site b": func(g *domain.Group) {
			g.VMs = []domain.VM{{ID: "vm", Port: 80, Sites: map[domain.SiteID]domain.VMPlacement{"a": g.VMs[0].Sites["a"]}}}
		},
	} {
		g := cfg.Groups[0].Domain()
		change(&g)
		if err := cfg.CheckGroup(g); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}
