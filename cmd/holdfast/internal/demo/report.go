package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Report is the outcome of a scenario, as --output json prints it. Times are RFC 3339 with nanoseconds.
type Report struct {
	Scenario string        `json:"scenario"`
	OK       bool          `json:"ok"`
	Seed     uint64        `json:"seed"`
	Groups   []GroupReport `json:"groups"`
	DNS      []DNSReport   `json:"dns"`
	Phases   []Phase       `json:"phases"`
	TraceID  string        `json:"trace_id"`
	Runs     []RunReport   `json:"runs"`
	Checks   []Check       `json:"checks"`
}

// RunReport is a run of the scenario's, by whose id its trace is found.
type RunReport struct {
	ID      domain.RunID  `json:"id"`
	Kind    string        `json:"kind"`
	Site    domain.SiteID `json:"site"` // that led it
	TraceID string        `json:"trace_id"`
	// FirstMissed is when the disaster that the run answers was first seen.
	FirstMissed time.Time `json:"first_missed,omitzero"`
}

// GroupReport is what became of one group's writes.
type GroupReport struct {
	Name        domain.GroupID `json:"name"`
	Mode        domain.Mode    `json:"mode"`
	EpochBefore domain.Epoch   `json:"epoch_before"`
	EpochAfter  domain.Epoch   `json:"epoch_after"`
	WritesAcked int            `json:"writes_acked"`
	WritesFound int            `json:"writes_found"` // of those acknowledged, on the promoted disk
	PrefixOK    bool           `json:"prefix_ok"`
	LostWrites  int            `json:"lost_writes"`
	LostBytes   int64          `json:"lost_bytes"`
	RPOSeconds  float64        `json:"rpo_seconds"` // span of time whose acknowledged writes are missing
	RTOSeconds  float64        `json:"rto_seconds"` // from the fault to the first append a client saw done after it
	ServedTwice bool           `json:"served_twice"`
}

// DNSReport is what became of one name.
type DNSReport struct {
	Name             string  `json:"name"`
	Before           string  `json:"before"`
	After            string  `json:"after"`
	AuthoritySeconds float64 `json:"authority_seconds"`
}

// Phase is a stretch of the recovery.
type Phase struct {
	Name  string    `json:"name"`
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Check is one thing the scenario demands.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func (r *Report) check(name string, ok bool, format string, args ...any) {
	r.Checks = append(r.Checks, Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
}

// settle decides OK: every check held, and there was at least one.
func (r *Report) settle() {
	r.OK = len(r.Checks) > 0
	for _, c := range r.Checks {
		r.OK = r.OK && c.OK
	}
}

// newReport is a report whose lists are empty rather than missing, however early the scenario ends.
func newReport(o Options) *Report {
	return &Report{Scenario: o.Scenario, Seed: o.Seed, Groups: []GroupReport{}, DNS: []DNSReport{}, Phases: []Phase{}, Runs: []RunReport{}, Checks: []Check{}}
}

func (r *Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *Report) writeText(w io.Writer, p palette) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", p.bold("What was kept, and how long it took"))
	fmt.Fprintf(&b, "  %-6s %-6s %9s %9s %6s %12s %9s %9s  %s\n", "group", "mode", "acked", "found", "lost", "lost bytes", "RPO", "RTO", "epoch")
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "  %-6s %-6s %9d %9d %6d %12d %8.2fs %8.2fs  %s -> %s\n",
			g.Name, g.Mode, g.WritesAcked, g.WritesFound, g.LostWrites, g.LostBytes, g.RPOSeconds, g.RTOSeconds, g.EpochBefore, g.EpochAfter)
	}
	for _, d := range r.DNS {
		fmt.Fprintf(&b, "  %s: %s -> %s, seen at its authority after %.0f ms\n", d.Name, d.Before, d.After, d.AuthoritySeconds*1000)
	}
	if len(r.Phases) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.bold("Where the time went"))
		writePhases(&b, r.Phases)
	}
	fmt.Fprintf(&b, "\n%s\n", p.bold("Checks"))
	for _, c := range r.Checks {
		mark := p.green("✓")
		if !c.OK {
			mark = p.red("✗")
		}
		fmt.Fprintf(&b, "  %s %s", mark, c.Name)
		if c.Detail != "" {
			fmt.Fprintf(&b, " %s", p.dim("("+c.Detail+")"))
		}
		b.WriteByte('\n')
	}
	verdict := p.green("Every check held.")
	if !r.OK {
		verdict = p.red("Not every check held.")
	}
	fmt.Fprintf(&b, "\n%s  scenario %s, seed %d, trace %s\n", verdict, r.Scenario, r.Seed, r.TraceID)
	_, err := io.WriteString(w, b.String())
	return err
}

const phaseBar = 40

func writePhases(b *strings.Builder, phases []Phase) {
	begin, end := phases[0].Start, phases[0].End
	for _, p := range phases {
		if p.Start.Before(begin) {
			begin = p.Start
		}
		if p.End.After(end) {
			end = p.End
		}
	}
	total := max(end.Sub(begin), time.Millisecond)
	for _, p := range phases {
		from := int(p.Start.Sub(begin) * phaseBar / total)
		width := max(1, int(p.End.Sub(p.Start)*phaseBar/total))
		bar := strings.Repeat(" ", min(from, phaseBar-1)) + strings.Repeat("█", min(width, phaseBar-min(from, phaseBar-1)))
		fmt.Fprintf(b, "  %-12s %-*s %7.3fs\n", p.Name, phaseBar, bar, p.End.Sub(p.Start).Seconds())
	}
}
