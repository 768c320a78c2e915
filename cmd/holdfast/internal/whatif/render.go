package whatif

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Title names what is lost.
func (p Prediction) Title() string {
	if len(p.Lost) == 0 {
		return "nothing more is lost"
	}
	names := make([]string, len(p.Lost))
	for i, l := range p.Lost {
		names[i] = l.String()
	}
	return strings.Join(names, " and ") + " lost"
}

// Text is the prediction for people; why is the chain of reasons, too.
func (p Prediction) Text(why bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Title())
	for _, s := range p.Down {
		fmt.Fprintf(&b, "site %s does not answer already: it counts as lost\n", s)
	}
	for _, l := range p.Cut {
		fmt.Fprintf(&b, "%s is cut already\n", l)
	}
	for _, m := range p.Maintenance {
		fmt.Fprintf(&b, "site %s is under maintenance until %s (%s: %s)\n", m.About.Site, end(m), m.ID, m.Why)
	}
	for _, x := range p.Blind {
		fmt.Fprintf(&b, "site %s is no vantage point: %s\n", x.Site, x.Why)
	}
	for _, r := range p.Quorum {
		fmt.Fprintf(&b, "site %s: %d of %d votes, %s\n", r.Site, r.Votes, r.Total, map[bool]string{true: "quorum", false: "no quorum"}[r.Quorum])
	}
	if len(p.Confirmed) > 0 {
		fmt.Fprintf(&b, "confirmed as a disaster: %s\n", join(p.Confirmed))
	}
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tNOW AT\tTHEN\tAT\tORDER\tAFTER\tLOST WRITES\tNAMES\tNO HOST FOR")
	for _, f := range p.Groups {
		order, after := "-", dash(f.Held)
		if f.What == Moves {
			order, after = fmt.Sprint(f.Order), f.HoldDown().String()
		}
		loss := "-"
		if f.Loss != nil {
			loss = f.Loss.Text
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Group, dash(string(f.From)), f.then(), dash(string(f.To)), order, after, dash(loss), dash(f.nameText()), dash(strings.Join(f.NotFit, ", ")))
	}
	_ = w.Flush() // a strings.Builder takes everything
	if why {
		for _, f := range p.Groups {
			fmt.Fprintf(&b, "group %s:\n", f.Group)
			for _, reason := range f.Why {
				fmt.Fprintf(&b, "    %s\n", reason)
			}
		}
	}
	return b.String()
}

// then is what becomes of the group, and which run leaves that open.
func (f Fate) then() string {
	if f.Run == "" {
		return f.What
	}
	return fmt.Sprintf("%s (in run %s)", f.What, f.Run)
}

func (f Fate) nameText() string {
	var out []string
	for _, n := range f.Names {
		out = append(out, fmt.Sprintf("%s %s -> %s", n.Name, n.Before, n.After))
	}
	return strings.Join(out, ", ")
}

// Line is one line of a table of many predictions.
func (p Prediction) Line() string {
	var quorum, groups []string
	for _, r := range p.Quorum {
		if r.Quorum {
			quorum = append(quorum, string(r.Site))
		}
	}
	for _, f := range p.Groups {
		text := fmt.Sprintf("%s %s", f.Group, f.then())
		switch {
		case f.What == Moves || f.What == Waits:
			text += fmt.Sprintf(" %s -> %s", dash(string(f.From)), f.To)
			if f.Held != "" {
				text += " (" + f.Held + ")"
			}
		case f.What == Stays:
			text += " at " + string(f.To)
		}
		groups = append(groups, text)
	}
	return strings.TrimSuffix(p.Title(), " lost") + "\t" + dash(strings.Join(quorum, " ")) + "\t" + strings.Join(groups, "; ")
}

// Table is many predictions, a line each.
func Table(all []Prediction) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "LOST\tQUORUM AT\tGROUPS")
	for _, p := range all {
		fmt.Fprintln(w, p.Line())
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func join(sites []domain.SiteID) string {
	out := make([]string, len(sites))
	for i, s := range sites {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}
