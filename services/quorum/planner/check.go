package planner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Rule is one warning the planner knows.
type Rule struct {
	Code  string
	Title string
	look  func(*check)
}

// Rules lists every warning, in the order of their codes.
func Rules() []Rule {
	return slices.Concat(fieldRules(), derivedRules())
}

// Check is the planner's report. The error wraps domain.ErrInvalid: the model does not fit its voters.
func Check(in Input) (Report, error) {
	cfg, err := in.Config()
	if err != nil {
		return Report{}, err
	}
	c := &check{Input: in, cfg: cfg, all: in.places()}
	c.report = Report{Model: in.Model, Live: in.Live != nil}
	_, c.report.Total = cfg.Weights.Count(func(core.VoterID) bool { return true })
	c.report.Needed = c.report.Total/2 + 1
	for _, v := range in.Voters {
		c.report.Votes = append(c.report.Votes, Ballot{Voter: v.ID, Kind: v.Kind, Place: v.at(), Weight: cfg.Weights[v.ID]})
	}
	c.enumerate()
	for _, r := range Rules() {
		before := len(c.report.Findings)
		c.code = r.Code
		r.look(c)
		if len(c.report.Findings) == before {
			c.report.Clear = append(c.report.Clear, r.Code)
		}
	}
	c.report.sort()
	return c.report, nil
}

// Config is the votes of the input. The error wraps domain.ErrInvalid.
func (in Input) Config() (core.Config, error) {
	members := make([]core.Member, len(in.Voters))
	for i, v := range in.Voters {
		members[i] = v.Member
	}
	return core.Arrange(in.Model, members)
}

// check is a report in the making.
type check struct {
	Input
	cfg    core.Config
	all    []place
	code   string // of the rule that looks
	report Report
}

func (c *check) say(s Severity, about, text, consequence, mend string) {
	c.report.Findings = append(c.report.Findings, Finding{Code: c.code, Severity: s, About: about, Text: text, Consequence: consequence, Mend: mend})
}

func (c *check) unknown(about, text, mend string) {
	c.say(NotKnown, about, text, "this warning can neither be raised nor ruled out", mend)
}

// votesAt is how many votes stand at a place.
func (c *check) votesAt(name string) int {
	return c.side(slices.DeleteFunc(slices.Clone(c.all), func(p place) bool { return p.name != name })).Votes
}

// voting are the voters that have a vote.
func (c *check) voting() []Voter {
	return slices.DeleteFunc(slices.Clone(c.Voters), func(v Voter) bool { return c.cfg.Weights[v.ID] == 0 })
}

// nodes are the voters with a vote that the model takes for nodes.
func (c *check) nodes() []Voter {
	return slices.DeleteFunc(c.voting(), func(v Voter) bool { return v.Kind.Passive() || c.extra(v) })
}

// extra reports whether a voter is the one that the model has beside its nodes.
func (c *check) extra(v Voter) bool {
	return v.Kind.Passive() || v.Kind == core.KindWitness && c.Model == core.NodeAndShareMajority
}

// passive are the voters that run no code, those without a vote too.
func (c *check) passive() []Voter {
	return slices.DeleteFunc(slices.Clone(c.Voters), func(v Voter) bool { return !v.Kind.Passive() })
}

// homes are the sites that groups run at when all is well: the primary sites.
func (c *check) homes() []domain.SiteID {
	var out []domain.SiteID
	for _, g := range c.Groups {
		if !slices.Contains(out, g.Home) {
			out = append(out, g.Home)
		}
	}
	slices.Sort(out)
	return out
}

// known reports whether it is known which sites are primary, and says so when it is not.
func (c *check) homesKnown() bool {
	if len(c.Groups) == 0 {
		c.unknown("", "no group is configured here, so it is not known which site is primary", "check with the configuration of a data site, which lists the groups")
		return false
	}
	return true
}

func (c *check) dataSites() []domain.SiteID {
	var out []domain.SiteID
	for _, s := range c.Sites {
		if s.Role == domain.SiteData {
			out = append(out, s.ID)
		}
	}
	return out
}

func (c *check) multiSite() bool { return len(c.dataSites()) > 1 }

// keeps says who goes on with a set of places.
func keeps(s Side, total int) string {
	switch {
	case !s.Quorum:
		return fmt.Sprintf("no quorum (%d of %d votes)", s.Votes, total)
	case len(s.Serve) == 0:
		return fmt.Sprintf("quorum (%d of %d votes), and no site that stores", s.Votes, total)
	}
	return fmt.Sprintf("quorum (%d of %d votes): %s may serve", s.Votes, total, list(s.Serve))
}

func list[T ~string](items []T) string {
	out := make([]string, len(items))
	for i, s := range items {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

func ids(voters []Voter) []core.VoterID {
	out := make([]core.VoterID, len(voters))
	for i, v := range voters {
		out[i] = v.ID
	}
	return out
}

// plural is "1 vote", "2 votes".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// called is how people call a voter: the share, witness w.
func (v Voter) called() string {
	if string(v.Kind) == string(v.ID) {
		return "the " + string(v.Kind)
	}
	return string(v.Kind) + " " + string(v.ID)
}
