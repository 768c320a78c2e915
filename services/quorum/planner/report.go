package planner

import (
	"cmp"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Severity says how bad a finding is.
type Severity string

// The severities, worst first.
const (
	Error    Severity = "error"     // a loss it is meant to outlive stops it, or data is at risk
	Warning  Severity = "warning"   // the field advises against it
	Note     Severity = "note"      // to be known
	NotKnown Severity = "not known" // cannot be told from what was given
)

// Finding is one warning.
type Finding struct {
	Code        string   `json:"code"` // Q01 and on
	Severity    Severity `json:"severity"`
	About       string   `json:"about,omitempty"` // a site, voter or group
	Text        string   `json:"text"`            // what is so
	Consequence string   `json:"consequence"`
	Mend        string   `json:"mend"`
}

// Ballot is one voter's part of the count.
type Ballot struct {
	Voter  core.VoterID `json:"voter"`
	Kind   core.Kind    `json:"kind"`
	Place  string       `json:"place"` // the site it stands at, or its own name
	Weight int          `json:"weight"`
}

// Side is what is left after a loss, or one part of a partition.
type Side struct {
	Places []string        `json:"places"`
	Votes  int             `json:"votes"`
	Quorum bool            `json:"quorum"`
	Serve  []domain.SiteID `json:"serve,omitempty"` // the data sites that may serve: those of the side that has quorum
}

// Case is one loss or partition, and who keeps quorum in it.
type Case struct {
	Lost  []string `json:"lost,omitempty"` // places; empty for a partition
	Sides []Side   `json:"sides"`          // one for a loss
}

// Report is everything the planner has to say.
type Report struct {
	Model      core.Model `json:"model"`
	Votes      []Ballot   `json:"votes"`
	Total      int        `json:"total"`
	Needed     int        `json:"needed"` // votes that are a quorum
	Live       bool       `json:"live"`   // running sites were asked
	Findings   []Finding  `json:"findings"`
	Clear      []string   `json:"clear"`      // codes that were looked at and are well
	Losses     []Case     `json:"losses"`     // of each site, and of each voter that stands at none
	Partitions []Case     `json:"partitions"` // of those
	Bisections bool       `json:"bisections"` // there are so many places that only partitions in two are listed
}

// Worst is the worst severity among the findings, empty when there is none.
func (r Report) Worst() Severity {
	worst := Severity("")
	for _, f := range r.Findings {
		if worst == "" || rank(f.Severity) < rank(worst) {
			worst = f.Severity
		}
	}
	return worst
}

func rank(s Severity) int { return slices.Index([]Severity{Error, Warning, Note, NotKnown}, s) }

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(rank(a.Severity)-rank(b.Severity), cmp.Compare(a.Code, b.Code))
	})
}

// Changes are the findings of a report that an earlier one had not, and those of the earlier one that are so no longer. One
// whose severity changed is new, one whose figures alone changed is not; what is not known is neither.
func Changes(before, after Report) (raised, cleared []Finding) {
	missing := func(from, in Report) []Finding {
		var out []Finding
		for _, f := range from.Findings {
			same := func(o Finding) bool { return o.Code == f.Code && o.About == f.About && o.Severity == f.Severity }
			if f.Severity != NotKnown && !slices.ContainsFunc(in.Findings, same) {
				out = append(out, f)
			}
		}
		return out
	}
	return missing(after, before), missing(before, after)
}
