package domain

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Placement says which of its sites may serve a group, and which does so first. The zero value: any, in the order in which the
// group lists them.
type Placement struct {
	// Preferred is the first choice among the sites that could take the group over. Empty: none is.
	Preferred SiteID `json:"preferred,omitempty" yaml:"preferred"`
	// Pinned are the only sites that may serve the group. None: any may.
	Pinned []SiteID `json:"pinned,omitempty" yaml:"pinned"`
	// Forbidden sites never serve the group; they keep their copies.
	Forbidden []SiteID `json:"forbidden,omitempty" yaml:"forbidden"`
	// Return lets the group move to its preferred site by itself.
	Return Return `json:"return,omitzero" yaml:"return"`
}

// Return says when a group moves to its preferred site by itself. The zero value: never.
type Return struct {
	After  time.Duration `json:"after,omitempty" yaml:"after"`   // the copy there has been in sync for so long; 0: never
	Within []Window      `json:"within,omitempty" yaml:"within"` // parts of the day in which the move may begin; none: always
}

// Window is a part of the day, in the time zone of the machine that looks.
type Window struct {
	Days []Day `json:"days,omitempty" yaml:"days"` // on which it begins; none: every day
	From Clock `json:"from" yaml:"from"`
	To   Clock `json:"to" yaml:"to"` // exclusive; at or before From it is on the next day
}

// ParseWindow reads a window as people write it: [DAY[,DAY...]@]HH:MM-HH:MM. Errors wrap ErrInvalid.
func ParseWindow(text string) (Window, error) {
	var w Window
	times := text
	if days, rest, dated := strings.Cut(text, "@"); dated {
		times = rest
		for d := range strings.SplitSeq(days, ",") {
			if !slices.Contains(Days(), Day(d)) {
				return w, fmt.Errorf("%q is no day: %w: use mon, tue, wed, thu, fri, sat or sun", d, ErrInvalid)
			}
			w.Days = append(w.Days, Day(d))
		}
	}
	from, to, ok := strings.Cut(times, "-")
	w.From, w.To = Clock(from), Clock(to)
	_, err1 := w.From.Minutes()
	_, err2 := w.To.Minutes()
	if !ok || err1 != nil || err2 != nil {
		return w, fmt.Errorf("%q is no window: %w: write [DAY[,DAY...]@]HH:MM-HH:MM, as sat,sun@22:00-05:00", text, ErrInvalid)
	}
	return w, nil
}

// Has reports whether a time, in its own zone, lies in the window. A window with a time that is none has no time.
func (w Window) Has(at time.Time) bool {
	from, err1 := w.From.Minutes()
	to, err2 := w.To.Minutes()
	if err1 != nil || err2 != nil {
		return false
	}
	minute := at.Hour()*60 + at.Minute()
	today, yesterday := Days()[at.Weekday()], Days()[(at.Weekday()+6)%7]
	on := func(d Day) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }
	if from < to {
		return on(today) && minute >= from && minute < to
	}
	return on(today) && minute >= from || on(yesterday) && minute < to
}

// String is the window as ParseWindow reads it.
func (w Window) String() string {
	days := make([]string, len(w.Days))
	for i, d := range w.Days {
		days[i] = string(d)
	}
	text := string(w.From) + "-" + string(w.To)
	if len(days) > 0 {
		text = strings.Join(days, ",") + "@" + text
	}
	return text
}

// within reports whether a time lies in one of the windows; where there are none, it does.
func within(windows []Window, at time.Time) bool {
	return len(windows) == 0 || slices.ContainsFunc(windows, func(w Window) bool { return w.Has(at) })
}

// Open reports whether a move may begin at a time.
func (r Return) Open(at time.Time) bool {
	return within(r.Within, at)
}

// Barred is nil when a site may serve the group by its placement. Else it wraps ErrRefused, and names the setting and the mend.
func (g Group) Barred(site SiteID) error {
	p := g.Placement
	switch {
	case slices.Contains(p.Forbidden, site):
		return fmt.Errorf("%w: group %s is never served at site %s (placement.forbidden is %v): to allow it, give holdfast group set %s --forbid the sites that stay forbidden",
			ErrRefused, g.ID, site, p.Forbidden, g.ID)
	case len(p.Pinned) > 0 && !slices.Contains(p.Pinned, site):
		return fmt.Errorf("%w: group %s is served at %v only, not at site %s (placement.pinned): to allow it, add the site with holdfast group set %s --pin",
			ErrRefused, g.ID, p.Pinned, site, g.ID)
	}
	return nil
}

// Heirs lists the sites that have the changes of a group served at one site and may serve it: the preferred one first, the
// others as the group lists them.
func (g Group) Heirs(from SiteID) []SiteID {
	var out []SiteID
	for _, site := range g.SitesOf() {
		if g.ModeTo(from, site) == ModeNone || g.Barred(site) != nil {
			continue
		}
		if site == g.Placement.Preferred {
			out = slices.Insert(out, 0, site)
		} else {
			out = append(out, site)
		}
	}
	return out
}
