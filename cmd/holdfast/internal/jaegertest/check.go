package jaegertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Phases are the parts of a failover, each the tag phase of at least one span of its trace. A planned move has MovePhases.
var (
	Phases     = []string{"detect", "hold-down", "vote", "fence", "promote", "start", "verify", "dns", "client", "reprotect"}
	MovePhases = []string{"precheck", "evacuate", "demote", "release", "vote", "fence", "promote", "start", "verify", "dns", "client", "reprotect"}
)

// slack is what the microseconds of Jaeger's API and the order of two clock readings may differ by.
const slack = 2 * time.Millisecond

// Failover says what the trace of a failover must show.
type Failover struct {
	Leader string    // the site that took over
	Lost   string    // the site that was lost
	Sites  []string  // every site that must have spans in the trace
	First  time.Time // the first missed heartbeat, where the test knows it
	// Evidence is how many links the run must have to what other sites' observers saw; usually 1, the witness.
	Evidence int
}

// Problems lists what is wrong with the trace of a failover: nothing when it is whole.
func (t Trace) Problems(f Failover) []string {
	var p []string
	bad := func(format string, a ...any) { p = append(p, fmt.Sprintf(format, a...)) }
	p = append(p, t.whole(append([]string{}, Phases...), f.Sites)...)
	root, ok := t.root()
	if !ok || root.Name != "disaster" || root.Tags["lost_site"] != f.Lost || root.Site != f.Leader {
		bad("the root is %s of site %s about site %s, want disaster of %s about %s", root.Name, root.Site, root.Tags["lost_site"], f.Leader, f.Lost)
	}
	if len(t.Spans) > 0 && t.Spans[0].Start.Before(root.Start) {
		bad("%s starts before the first missed heartbeat", t.Spans[0].Name)
	}
	if !f.First.IsZero() && root.Start.Sub(f.First).Abs() > slack {
		bad("the trace begins at %s, the first missed heartbeat was at %s", root.Start, f.First)
	}
	detect, hold, run := t.phase("detect"), t.phase("hold-down"), t.phase("run")
	if len(detect) == 0 || !detect[0].Start.Equal(root.Start) {
		bad("detection does not begin at the first missed heartbeat")
	}
	if len(hold) > 0 && len(run) > 0 && hold[0].End().Sub(run[0].Start).Abs() > slack {
		bad("the hold-down ends at %s, the run starts at %s", hold[0].End(), run[0].Start)
	}
	if len(run) != 1 || run[0].Name != "failover run" {
		bad("%d spans of runs, want one failover run", len(run))
		return p
	}
	outside := slices.DeleteFunc(slices.Clone(run[0].Links), func(l Link) bool { return l.Trace == t.ID })
	if len(outside) < f.Evidence {
		bad("the run has %d links to other traces, want %d", len(outside), f.Evidence)
	}
	return append(p, t.endsWithTheClient()...)
}

// MoveProblems lists what is wrong with the trace of a switchover or failback from one site to another.
func (t Trace) MoveProblems(kind, from, to string) []string {
	p := t.whole(MovePhases, []string{from, to})
	if root, ok := t.root(); !ok || root.Name != kind+" run" || root.Tags["from"] != from || root.Site != to {
		p = append(p, fmt.Sprintf("the root is %q of site %s from %s, want %q of %s from %s", root.Name, root.Site, root.Tags["from"], kind+" run", to, from))
	}
	return append(p, t.endsWithTheClient()...)
}

// CheckFailover fails the test with every problem of the trace, and with its tree.
func (t Trace) CheckFailover(tb testing.TB, f Failover) {
	tb.Helper()
	t.report(tb, t.Problems(f))
}

// CheckMove fails the test with every problem of a switchover's or failback's trace, and with its tree.
func (t Trace) CheckMove(tb testing.TB, kind, from, to string) {
	tb.Helper()
	t.report(tb, t.MoveProblems(kind, from, to))
}

func (t Trace) report(tb testing.TB, problems []string) {
	tb.Helper()
	for _, p := range problems {
		tb.Errorf("trace %s: %s", t.ID, p)
	}
	if len(problems) > 0 {
		tb.Logf("trace %s:\n%s", t.ID, t.Tree())
	}
}

// orphans are the spans whose parent is not in the trace.
func (t Trace) orphans() []Span {
	ids := map[string]bool{"": true}
	for _, s := range t.Spans {
		ids[s.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(t.Spans), func(s Span) bool { return ids[s.Parent] })
}

// whole finds what no trace of a run may lack: one root, no span whose parent is missing, none told twice in two ways, every
// phase, spans of the sites, and a critical path.
func (t Trace) whole(phases, sites []string) []string {
	var p []string
	have, at := map[string]bool{}, map[string]bool{}
	roots, marked := 0, 0
	for _, s := range t.Spans {
		have[s.Tags["phase"]], at[s.Site] = true, true
		if s.Tags["critical_path"] == "true" {
			marked++
		}
		if s.Parent == "" {
			roots++
		}
	}
	for _, s := range t.orphans() {
		p = append(p, fmt.Sprintf("span %s of %s at site %s: its parent %s is not in the trace", s.Name, s.Service, s.Site, s.Parent))
	}
	if roots != 1 {
		p = append(p, fmt.Sprintf("%d roots, want 1", roots))
	}
	if n := len(slices.DeleteFunc(slices.Clone(t.Spans), func(s Span) bool { return s.Name != "vm append" })); n > 0 {
		p = append(p, fmt.Sprintf("%d writes of clients are in the trace: the way of a write is not to be traced", n))
	}
	for _, id := range t.Differing {
		p = append(p, fmt.Sprintf("span %s is stored twice, and differs", id))
	}
	for _, phase := range phases {
		if !have[phase] {
			p = append(p, fmt.Sprintf("no span of phase %s", phase))
		}
	}
	for _, site := range sites {
		if !at[site] {
			p = append(p, fmt.Sprintf("no span of site %s", site))
		}
	}
	if marked < 4 {
		p = append(p, fmt.Sprintf("%d spans are marked as the critical path", marked))
	}
	return p
}

// endsWithTheClient wants the last client answered after everything that it needs, and the run not before it.
func (t Trace) endsWithTheClient() []string {
	var clients []Span
	for _, s := range t.Spans {
		if s.Name == "client" && s.Tags["step"] != "" {
			clients = append(clients, s)
		}
	}
	if len(clients) == 0 {
		return []string{"no client was answered"}
	}
	last := slices.MaxFunc(clients, func(a, b Span) int { return a.End().Compare(b.End()) })
	var p []string
	if last.Tags["critical_path"] != "true" {
		p = append(p, "the last client answered is not the end of the critical path")
	}
	for _, s := range t.Spans {
		if slices.Contains([]string{"acquire", "promote", "start_vm", "verify", "dns"}, s.Name) && s.Tags["step"] != "" && s.End().After(last.End().Add(slack)) {
			p = append(p, fmt.Sprintf("step %s ends after the last client was answered", s.Tags["step"]))
		}
	}
	if run := t.phase("run"); len(run) == 1 && last.End().After(run[0].End().Add(slack)) {
		p = append(p, "the run ends before the last client was answered")
	}
	return p
}

func (t Trace) root() (Span, bool) {
	for _, s := range t.Spans {
		if s.Parent == "" {
			return s, true
		}
	}
	return Span{}, false
}

func (t Trace) phase(name string) []Span {
	return slices.DeleteFunc(slices.Clone(t.Spans), func(s Span) bool { return s.Tags["phase"] != name })
}

// LinkedFrom is every span of other, of a site and a phase, that links into this trace.
func (t Trace) LinkedFrom(other []Trace, site, phase string) []Span {
	var out []Span
	for _, o := range other {
		for _, s := range o.Spans {
			if s.Site == site && s.Tags["phase"] == phase && slices.ContainsFunc(s.Links, func(l Link) bool { return l.Trace == t.ID }) {
				out = append(out, s)
			}
		}
	}
	return out
}

// Tree draws the trace as text.
func (t Trace) Tree() string {
	var b strings.Builder
	root, _ := t.root()
	known := map[string]bool{}
	for _, s := range t.Spans {
		known[s.ID] = true
	}
	var draw func(parent string, depth int)
	draw = func(parent string, depth int) {
		for _, s := range t.Spans {
			if s.Parent == parent || parent == "" && !known[s.Parent] {
				mark := " "
				if s.Tags["critical_path"] == "true" {
					mark = "*"
				}
				fmt.Fprintf(&b, "%8.3f s %9.3f s %s %s%s  [%s %s] %s\n", s.Start.Sub(root.Start).Seconds(), s.Took.Seconds(), mark,
					strings.Repeat("  ", depth), s.Name, s.Site, s.Service, s.about())
				draw(s.ID, depth+1)
			}
		}
	}
	draw("", 0)
	return b.String()
}

func (s Span) about() string {
	var out []string
	for _, k := range []string{"step", "voter", "verdict", "otel.status_description"} {
		if v := s.Tags[k]; v != "" {
			out = append(out, v)
		}
	}
	if len(s.Links) > 0 {
		out = append(out, fmt.Sprintf("%d links", len(s.Links)))
	}
	return strings.Join(out, " ")
}
