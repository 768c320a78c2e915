package whatif

import (
	"cmp"
	"fmt"
	"html"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// Measures of the picture, in pixels.
const (
	boxWidth  = 220
	boxGap    = 60
	boxTop    = 70
	boxHead   = 54
	rowHeight = 22
	margin    = 24
)

// SVG is a picture of predictions, one below the other: each site and each voter elsewhere a box with its votes, what is lost
// dashed and red, links that are cut between them, the groups where they end up.
func SVG(st State, all []Prediction) string {
	names := places(st.Plan)
	width := 2*margin + len(names)*boxWidth + (len(names)-1)*boxGap
	var body strings.Builder
	y := 0
	for _, p := range all {
		y += panel(&body, st, p, names, y)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n"+
		`<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n%s</svg>\n", width, y+margin, width, y+margin, body.String())
}

// panel draws one prediction at a height, and returns how high it is.
func panel(b *strings.Builder, st State, p Prediction, names []string, y int) int {
	text(b, margin, y+margin+8, "#202020", "bold", p.Title())
	height := boxHead + rowHeight*(1+len(p.Groups))
	middle := func(i int) int { return margin + i*(boxWidth+boxGap) + boxWidth/2 }
	for _, l := range p.Lost {
		if l.Kind != LoseLink {
			continue
		}
		from, to := middle(slices.Index(names, l.A)), middle(slices.Index(names, l.B))
		if to < from {
			from, to = to, from
		}
		fmt.Fprintf(b, `<path d="M %d %d V %d H %d V %d" fill="none" stroke="#c62828" stroke-width="2" stroke-dasharray="6 4"/>`+"\n", from, y+boxTop, y+boxTop-14, to, y+boxTop)
		text(b, (from+to)/2-4, y+boxTop-9, "#c62828", "bold", "✕")
	}
	for i, name := range names {
		box(b, st, p, name, margin+i*(boxWidth+boxGap), y+boxTop, height)
	}
	return boxTop + height + margin
}

func box(b *strings.Builder, st State, p Prediction, name string, x, y, height int) {
	stroke, dashes, fill := "#37474f", "", "#f5f7f8"
	gone := slices.Contains(p.Down, domain.SiteID(name)) || slices.Contains(p.Lost, Loss{Kind: LoseSite, A: name})
	if gone {
		stroke, dashes, fill = "#c62828", ` stroke-dasharray="6 4"`, "#fdecea"
	}
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s" stroke="%s" stroke-width="2"%s/>`+"\n", x, y, boxWidth, height, fill, stroke, dashes)
	text(b, x+12, y+20, "#202020", "bold", title(st.Plan, name))
	state, color := "", "#546e7a"
	for _, r := range p.Quorum {
		if string(r.Site) != name {
			continue
		}
		state, color = fmt.Sprintf("%d of %d votes, no quorum", r.Votes, r.Total), "#c62828"
		if r.Quorum {
			state, color = fmt.Sprintf("%d of %d votes, quorum", r.Votes, r.Total), "#2e7d32"
		}
	}
	switch {
	case gone:
		state, color = "lost", "#c62828"
	case mute(st.Plan, p, name):
		state, color = "voter lost", "#c62828"
	}
	text(b, x+12, y+40, color, "normal", state)
	row := y + boxHead
	for _, f := range p.Groups {
		row += rowHeight
		line, color := chip(f, name)
		if line != "" {
			text(b, x+12, row, color, "normal", line)
		}
	}
}

func title(in planner.Input, name string) string {
	for _, s := range in.Sites {
		if string(s.ID) == name {
			return fmt.Sprintf("site %s (%s)", name, s.Role)
		}
	}
	return "voter " + name
}

// mute reports whether a voter that stands at a place is lost.
func mute(in planner.Input, p Prediction, name string) bool {
	for _, v := range in.Voters {
		at := string(v.Site)
		if at == "" {
			at = string(v.ID)
		}
		if at == name && slices.Contains(p.Lost, Loss{Kind: LoseVoter, A: string(v.ID)}) {
			return true
		}
	}
	return false
}

// chip is what a group's line says at a place.
func chip(f Fate, name string) (string, string) {
	switch {
	case f.What == Stays && string(f.To) == name:
		return fmt.Sprintf("● %s stays", f.Group), "#2e7d32"
	case f.What == Moves && string(f.To) == name:
		how := fmt.Sprintf("after %s", f.HoldDown())
		if f.Run != "" {
			how = fmt.Sprintf("in run %s", f.Run)
		}
		return fmt.Sprintf("▶ %d. %s from %s %s", f.Order, f.Group, dash(string(f.From)), how), "#1565c0"
	case f.What == Waits && string(f.To) == name:
		return fmt.Sprintf("? %s waits for %s", f.Group, cmp.Or(f.Held, "a person")), "#ef6c00"
	case string(f.From) == name && f.What != Stays:
		return fmt.Sprintf("✕ %s stops here", f.Group), "#c62828"
	}
	return "", ""
}

func text(b *strings.Builder, x, y int, color, weight, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s" font-weight="%s">%s</text>`+"\n", x, y, color, weight, html.EscapeString(s))
}
