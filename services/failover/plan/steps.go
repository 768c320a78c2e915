package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func (b *builder) add(kind string, g domain.GroupID, vm domain.VMID, name string, needs ...string) string {
	parts := []string{string(g)}
	if vm != "" {
		parts = []string{string(vm)}
	}
	if name != "" {
		parts = append(parts, strings.TrimSuffix(name, "."))
	}
	id := ID(kind, parts...)
	b.steps = append(b.steps, api.Step{ID: id, Kind: kind, Group: g, VM: vm, Name: name, State: api.StepPending, Needs: slices.Compact(slices.Sorted(slices.Values(needs)))})
	return id
}

// group lays out one group's steps.
func (b *builder) group(pg domain.PlanGroup) error {
	g := b.in.Groups[pg.Group]
	var first []string
	if b.planned() {
		first = []string{b.handOver(pg)}
	}
	acquire := b.add(KindAcquire, g.ID, "", "", first...)
	desired := b.add(KindDesired, g.ID, "", "", acquire)
	promote := b.add(KindPromote, g.ID, "", "", desired)
	ends := []string{promote}
	for _, v := range g.VMs {
		end, err := b.vm(pg, g, v, promote)
		if err != nil {
			return err
		}
		ends = append(ends, end)
	}
	b.add(KindProtect, g.ID, "", "", ends...)
	return nil
}

// handOver lays out what the serving site does in a planned move, and returns the last of it.
func (b *builder) handOver(pg domain.PlanGroup) string {
	var needs []string
	for _, other := range b.chosen {
		needs = append(needs, ID(KindPrecheck, string(other.Group)))
		if before(pg, other) {
			needs = append(needs, ID(KindEvacuate, string(other.Group)))
		}
	}
	b.add(KindPrecheck, pg.Group, "", "")
	evacuate := b.add(KindEvacuate, pg.Group, "", "", needs...)
	demote := b.add(KindDemote, pg.Group, "", "", evacuate)
	return b.add(KindRelease, pg.Group, "", "", demote)
}

// gate is what must be done before a group counts as brought up.
func (b *builder) gate(id domain.GroupID) []string {
	g := b.in.Groups[id]
	if len(g.VMs) == 0 {
		return []string{ID(KindPromote, string(id))}
	}
	var out []string
	for _, v := range g.VMs {
		out = append(out, ID(KindVerify, string(v.ID)))
	}
	return out
}

// vm lays out one VM's steps and returns the last of them.
func (b *builder) vm(pg domain.PlanGroup, g domain.Group, v domain.VM, promote string) (string, error) {
	needs := []string{promote}
	for _, other := range b.chosen {
		if before(other, pg) {
			needs = append(needs, b.gate(other.Group)...)
		}
	}
	for _, u := range g.VMs {
		if u.Priority < v.Priority {
			needs = append(needs, ID(KindVerify, string(u.ID)))
		}
	}
	for _, d := range v.DependsOn {
		owner, ok := b.vms[d]
		if !ok {
			return "", fmt.Errorf("%w: vm %s depends on %s, which is not defined", domain.ErrInvalid, v.ID, d)
		}
		if slices.ContainsFunc(b.chosen, func(c domain.PlanGroup) bool { return c.Group == owner }) {
			needs = append(needs, ID(KindVerify, string(d)))
		}
	}
	start := b.add(KindStart, g.ID, v.ID, "", needs...)
	verify := b.add(KindVerify, g.ID, v.ID, "", start)
	last := []string{verify}
	for _, name := range v.DNS {
		last = append(last, b.add(KindDNS, g.ID, v.ID, name, verify))
	}
	return b.add(KindClient, g.ID, v.ID, "", last...), nil
}

// order sorts the steps so that each stands after all that it needs, otherwise as they were.
func order(steps []api.Step) ([]api.Step, error) {
	nodes := make([]string, 0, len(steps))
	needs := map[string][]string{}
	tokens := map[string]string{"run": "the run itself"}
	for _, s := range steps {
		if other, twice := tokens[api.Token(s.ID)]; twice {
			return nil, fmt.Errorf("%w: steps %s and %s have the same name", domain.ErrInvalid, other, s.ID)
		}
		tokens[api.Token(s.ID)] = s.ID
		nodes, needs[s.ID] = append(nodes, s.ID), s.Needs
	}
	if loop := findCycle(nodes, needs); loop != nil {
		return nil, fmt.Errorf("%w: steps wait for one another: %s", domain.ErrInvalid, strings.Join(loop, " after "))
	}
	done := map[string]bool{}
	out := make([]api.Step, 0, len(steps))
	for len(out) < len(steps) {
		for _, s := range steps {
			if done[s.ID] || slices.ContainsFunc(s.Needs, func(n string) bool { return !done[n] }) {
				continue
			}
			done[s.ID] = true
			out = append(out, s)
		}
	}
	return out, nil
}

// findCycle returns a loop in the graph as its nodes, the first again at the end; nil when there is none.
func findCycle(nodes []string, needs map[string][]string) []string {
	const (
		onPath = 1
		left   = 2
	)
	state := map[string]int{}
	var path, loop []string
	var visit func(string) bool
	visit = func(n string) bool {
		state[n] = onPath
		path = append(path, n)
		for _, m := range needs[n] {
			if state[m] == onPath {
				loop = append(slices.Clone(path[slices.Index(path, m):]), m)
				return true
			}
			if state[m] == 0 && visit(m) {
				return true
			}
		}
		state[n] = left
		path = path[:len(path)-1]
		return false
	}
	for _, n := range nodes {
		if state[n] == 0 && visit(n) {
			return loop
		}
	}
	return nil
}
