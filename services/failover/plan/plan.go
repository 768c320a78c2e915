package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Kinds of step.
const (
	KindPrecheck = "precheck"
	KindEvacuate = "evacuate"
	KindDemote   = "demote"
	KindRelease  = "release"
	KindAcquire  = "acquire"
	KindDesired  = "desired"
	KindPromote  = "promote"
	KindStart    = "start_vm"
	KindVerify   = "verify"
	KindDNS      = "dns"
	KindClient   = "client"
	KindProtect  = "protect"
)

// Input is what a run is built from.
type Input struct {
	Plan   domain.Plan
	Groups map[domain.GroupID]domain.Group // every group of the installation
	Only   []domain.GroupID                // the groups concerned; empty: all of the plan
	Kind   string                          // api.RunStart, ...
	Leader domain.SiteID                   // the site that is to serve
	From   domain.SiteID                   // the site that serves, or served; needed by all kinds but a start
}

// ID names a step, for example ID("promote", "erp").
func ID(kind string, parts ...string) string {
	if kind == KindStart {
		kind = "start"
	}
	return kind + "." + strings.Join(parts, ".")
}

// Build lays out the steps, each after all that it needs. Errors wrap domain.ErrInvalid, or domain.ErrRefused where a group's
// placement bars the leader, and name the plan and the culprit.
func Build(in Input) ([]api.Step, error) {
	fail := func(err error) ([]api.Step, error) { return nil, fmt.Errorf("build plan %s: %w", in.Plan.ID, err) }
	b := &builder{in: in, vms: map[domain.VMID]domain.GroupID{}}
	if err := b.choose(); err != nil {
		return fail(err)
	}
	if err := b.checkMove(); err != nil {
		return fail(err)
	}
	if err := b.checkGroupOrder(); err != nil {
		return fail(err)
	}
	for _, pg := range b.chosen {
		if err := b.group(pg); err != nil {
			return fail(err)
		}
	}
	steps, err := order(b.steps)
	if err != nil {
		return fail(err)
	}
	return steps, nil
}

type builder struct {
	in     Input
	chosen []domain.PlanGroup
	vms    map[domain.VMID]domain.GroupID // of the whole installation
	steps  []api.Step
}

// choose picks the groups of the run and checks every name the plan uses.
func (b *builder) choose() error {
	for id, g := range b.in.Groups {
		for _, v := range g.VMs {
			if other, twice := b.vms[v.ID]; twice {
				return fmt.Errorf("%w: vm %s is in group %s and in group %s", domain.ErrInvalid, v.ID, other, id)
			}
			b.vms[v.ID] = id
		}
	}
	seen := map[domain.GroupID]bool{}
	for _, pg := range b.in.Plan.Groups {
		if _, ok := b.in.Groups[pg.Group]; !ok {
			return fmt.Errorf("%w: group %s is not defined", domain.ErrInvalid, pg.Group)
		}
		if seen[pg.Group] {
			return fmt.Errorf("%w: group %s is named twice", domain.ErrInvalid, pg.Group)
		}
		seen[pg.Group] = true
	}
	for _, pg := range b.in.Plan.Groups {
		for _, d := range pg.DependsOn {
			if !seen[d] {
				return fmt.Errorf("%w: group %s depends on %s, which is not in the plan", domain.ErrInvalid, pg.Group, d)
			}
		}
		if len(b.in.Only) == 0 || slices.Contains(b.in.Only, pg.Group) {
			b.chosen = append(b.chosen, pg)
		}
	}
	for _, g := range b.in.Only {
		if !seen[g] {
			return fmt.Errorf("%w: group %s is not in the plan", domain.ErrInvalid, g)
		}
	}
	if len(b.chosen) == 0 {
		return fmt.Errorf("%w: no group is concerned", domain.ErrInvalid)
	}
	return nil
}

func (b *builder) planned() bool {
	return b.in.Kind == api.RunSwitchover || b.in.Kind == api.RunFailback
}

func (b *builder) checkMove() error {
	switch b.in.Kind {
	case api.RunStart:
	case api.RunFailover, api.RunSwitchover, api.RunFailback:
		if b.in.From == "" || b.in.From == b.in.Leader {
			return fmt.Errorf("%w: a %s to site %s needs another site to come from, not %q", domain.ErrInvalid, b.in.Kind, b.in.Leader, b.in.From)
		}
	default:
		return fmt.Errorf("%w: unknown kind of run %q", domain.ErrInvalid, b.in.Kind)
	}
	for _, pg := range b.chosen {
		g := b.in.Groups[pg.Group]
		if !slices.Contains(g.SitesOf(), b.in.Leader) {
			return fmt.Errorf("%w: site %s has no copy of group %s", domain.ErrInvalid, b.in.Leader, g.ID)
		}
		if err := g.Barred(b.in.Leader); err != nil {
			return err
		}
		if b.in.Kind != api.RunStart && g.ModeTo(b.in.From, b.in.Leader) == domain.ModeNone {
			return fmt.Errorf("%w: group %s is not replicated from site %s to site %s", domain.ErrInvalid, g.ID, b.in.From, b.in.Leader)
		}
		for _, v := range g.VMs {
			if len(v.Sites[b.in.Leader].Hosts) == 0 {
				return fmt.Errorf("%w: vm %s of group %s has no host at site %s", domain.ErrInvalid, v.ID, g.ID, b.in.Leader)
			}
		}
	}
	return nil
}

// before reports whether group x is brought up before group y.
func before(x, y domain.PlanGroup) bool {
	return x.Group != y.Group && (x.Priority < y.Priority || slices.Contains(y.DependsOn, x.Group))
}

// checkGroupOrder finds a plan whose priorities and dependencies contradict one another.
func (b *builder) checkGroupOrder() error {
	nodes := make([]string, 0, len(b.in.Plan.Groups))
	needs := map[string][]string{}
	for _, y := range b.in.Plan.Groups {
		nodes = append(nodes, string(y.Group))
		for _, x := range b.in.Plan.Groups {
			if before(x, y) || x.Group == y.Group && slices.Contains(y.DependsOn, x.Group) {
				needs[string(y.Group)] = append(needs[string(y.Group)], string(x.Group))
			}
		}
	}
	if loop := findCycle(nodes, needs); loop != nil {
		return fmt.Errorf("%w: groups wait for one another: %s (priorities and dependencies together)", domain.ErrInvalid, strings.Join(loop, " after "))
	}
	return nil
}
