package planner

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text is the report for people.
func (r Report) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "model %s: %d votes, %d are a quorum\n\n", r.Model, r.Total, r.Needed)
	fmt.Fprintln(w, "VOTER\tKIND\tAT\tVOTES")
	for _, v := range r.Votes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", v.Voter, v.Kind, v.Place, v.Weight)
	}
	fmt.Fprintln(w, "\nLOST\tWHO IS LEFT\tKEEPS")
	for _, k := range r.Losses {
		fmt.Fprintf(w, "%s\t%s\t%s\n", strings.Join(k.Lost, " "), strings.Join(k.Sides[0].Places, " "), keeps(k.Sides[0], r.Total))
	}
	fmt.Fprint(w, "\nPARTITION\tKEEPS")
	if r.Bisections {
		fmt.Fprint(w, " (partitions in two)")
	}
	fmt.Fprintln(w)
	for _, k := range r.Partitions {
		fmt.Fprintf(w, "%s\t%s\n", partitionName(k), k.keeper(r.Total))
	}
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteByte('\n')
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s", f.Code, f.Severity)
		if f.About != "" {
			fmt.Fprintf(&b, ", %s", f.About)
		}
		fmt.Fprintf(&b, ": %s\n", f.Text)
		if f.Severity != NotKnown {
			fmt.Fprintf(&b, "    then: %s\n", f.Consequence)
		}
		fmt.Fprintf(&b, "    mend: %s\n", f.Mend)
	}
	if len(r.Clear) > 0 {
		fmt.Fprintf(&b, "well: %s\n", strings.Join(r.Clear, " "))
	}
	if !r.Live {
		b.WriteString("No running site was asked: what only a running site knows is told as not known.\n")
	}
	return b.String()
}

func partitionName(k Case) string {
	parts := make([]string, len(k.Sides))
	for i, s := range k.Sides {
		parts[i] = strings.Join(s.Places, " ")
	}
	return strings.Join(parts, " | ")
}

// keeper says which side of a partition keeps quorum.
func (k Case) keeper(total int) string {
	for _, s := range k.Sides {
		if s.Quorum {
			return strings.Join(s.Places, " ") + ": " + keeps(s, total)
		}
	}
	return "nobody"
}
