//go:build e2e

package whatif

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// state is an installation, what was lost of it before, and what is to be lost.
type state struct {
	net     string
	data    []string // sites
	witness bool
	groups  []domain.Group
	plan    []string       // groups of the one plan, in order; the others have plans of their own
	late    domain.GroupID // its targets lag behind; empty: none
	before  []string       // sites lost before the prediction
	lose    []string       // sites
}

// draw makes a state from a seed.
func draw(seed uint64) state {
	r := rand.New(rand.NewPCG(seed, 1))                                                                                   //nolint:gosec // a state to be drawn again
	s := state{net: fmt.Sprintf("127.%d.%d", 20+rand.IntN(200), rand.IntN(256)), data: []string{"a", "b"}, witness: true} //nolint:gosec // no other test has it
	if r.IntN(2) == 0 {
		s.data, s.witness = append(s.data, "c"), r.IntN(4) > 0
	}
	main := pick(r, s.data...) // where most groups are at home
	for i := range 2 + r.IntN(3) {
		g := domain.Group{ID: domain.GroupID(fmt.Sprintf("g%d", i+1)), Home: domain.SiteID(pick(r, append(s.data, main, main, main)...)), OnTargetLoss: domain.TargetLossDegrade}
		for _, other := range s.data {
			if other != string(g.Home) {
				g.Targets = append(g.Targets, domain.Target{Site: domain.SiteID(other), Mode: pick(r, domain.ModeSync, domain.ModeSync, domain.ModeSync, domain.ModeAsync, domain.ModeAsync, domain.ModeNone)})
			}
		}
		g.Failover = pick(r, domain.FailoverAuto, domain.FailoverAuto, domain.FailoverAuto, domain.FailoverAuto, domain.FailoverAuto, domain.FailoverAuto, domain.FailoverConfirm,
			domain.FailoverManual)
		g.HoldDown = pick(r, holdDowns...)
		if r.IntN(6) == 0 {
			g.OnTargetLoss = domain.TargetLossSuspend
		}
		if r.IntN(8) == 0 {
			g.Placement.Forbidden = []domain.SiteID{pick(r, g.Targets...).Site}
		}
		if r.IntN(2) == 0 {
			g.VMs = []domain.VM{{ID: domain.VMID(g.ID) + "-vm", Port: 8081 + i}}
		}
		if r.IntN(3) > 0 {
			s.plan = append(s.plan, string(g.ID))
		}
		s.groups = append(s.groups, g)
	}
	r.Shuffle(len(s.plan), func(i, j int) { s.plan[i], s.plan[j] = s.plan[j], s.plan[i] })
	if r.IntN(2) == 0 {
		g := domain.Group{ID: "late", Home: domain.SiteID(main), OnTargetLoss: domain.TargetLossDegrade, Failover: domain.FailoverAuto, HoldDown: pick(r, holdDowns...)}
		for _, other := range s.data {
			if other != main {
				g.Targets = append(g.Targets, domain.Target{Site: domain.SiteID(other), Mode: domain.ModeAsync})
			}
		}
		s.late, s.groups = g.ID, append(s.groups, g)
	}
	sites := s.sites()
	r.Shuffle(len(sites), func(i, j int) { sites[i], sites[j] = sites[j], sites[i] })
	if len(sites) > 3 && r.IntN(3) == 0 {
		s.before, sites = sites[:1], sites[1:]
	}
	s.lose = sites[:1]
	if i := slices.Index(sites, main); i >= 0 && r.IntN(4) > 0 {
		s.lose = sites[i : i+1]
	}
	if r.IntN(5) == 0 {
		s.lose = append(slices.Clone(s.lose), pick(r, slices.DeleteFunc(slices.Clone(sites), func(id string) bool { return id == s.lose[0] })...))
	}
	if len(s.left()) == 0 {
		s.lose = s.lose[:1]
	}
	return s
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func (s state) sites() []string {
	out := slices.Clone(s.data)
	if s.witness {
		out = append(out, "w")
	}
	return out
}

// left are the data sites that are left after the loss.
func (s state) left() []string {
	return slices.DeleteFunc(slices.Clone(s.data), func(id string) bool { return slices.Contains(s.lose, id) || slices.Contains(s.before, id) })
}

func (s state) address(site string) string {
	return fmt.Sprintf("%s.%d", s.net, 11+slices.Index([]string{"a", "b", "c", "w"}, site))
}

// text is a site's configuration.
func (s state) text(id string) string {
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	say("site: %s\ndata_dir: ./%s\ntiming: fast\nnats: {listen: '%s:4222'}\nsites:", id, id, s.address(id))
	for i, other := range s.sites() {
		role := map[bool]string{true: "witness", false: "data"}[other == "w"]
		say("  - {id: %s, index: %d, role: %s, nats: 'nats://%s:4222'}", other, i+1, role, s.address(other))
	}
	model := "node_majority"
	if s.witness {
		model = "node_and_share_majority"
	}
	say("quorum: {model: %s}\njournal: {size: 32MiB}", model)
	if id != "w" {
		say("iscsi: {listen: '%s:3260'}\nhosts: [{id: %s-h1, driver: embedded, probe: '%s:9000'}]", s.address(id), id, s.address(id))
	}
	say("groups:")
	for _, g := range s.groups {
		say("  - id: %s\n    tier: 1\n    home: %s\n    durability: strict\n    on_target_loss: %s\n    failover: %s\n    hold_down: %s\n    targets:", g.ID, g.Home, g.OnTargetLoss, g.Failover, g.HoldDown)
		for _, t := range g.Targets {
			limit := ""
			if g.ID == s.late {
				limit = ", transport: {rate_limit: 64KiB}"
			}
			say("      - {site: %s, mode: %s%s}", t.Site, t.Mode, limit)
		}
		if f := g.Placement.Forbidden; len(f) > 0 {
			say("    placement: {forbidden: [%s]}", f[0])
		}
		say("    volumes: [{id: %s-data, size: 4MiB}, {id: %s-log, size: 4MiB}]", g.ID, g.ID)
		for _, vm := range g.VMs {
			say("    vms:\n      - id: %s\n        volumes: [%s-data, %s-log]\n        priority: 1\n        port: %d\n        sites:", vm.ID, g.ID, g.ID, vm.Port)
			for _, at := range g.SitesOf() {
				say("          %s: {address: %s, hosts: [%s-h1]}", at, s.address(string(at)), at)
			}
		}
	}
	if len(s.plan) > 0 {
		say("plans:\n  - id: main\n    groups:")
		for i, g := range s.plan {
			say("      - {group: %s, priority: %d}", g, i+1)
		}
	}
	return b.String()
}

// String tells the state in a line.
func (s state) String() string {
	var out []string
	for _, g := range s.groups {
		t := fmt.Sprintf("%s at %s %s %s %s", g.ID, g.Home, g.Failover, g.HoldDown, g.OnTargetLoss)
		for _, x := range g.Targets {
			t += fmt.Sprintf(" %s=%s", x.Site, x.Mode)
		}
		if f := g.Placement.Forbidden; len(f) > 0 {
			t += fmt.Sprintf(" not %s", f[0])
		}
		out = append(out, t)
	}
	return fmt.Sprintf("sites %v, plan %v, late %q: %s; lost before: %v; lose %v", s.sites(), s.plan, s.late, strings.Join(out, "; "), s.before, s.lose)
}
