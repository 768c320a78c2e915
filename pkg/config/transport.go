package config

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// validateTransport tells what is wrong with how a target is sent to.
func validateTransport(v *validator, f string, t domain.Transport) {
	if t.Compression != "" {
		oneOf(v, f+".compression", t.Compression, domain.CompressionNone, domain.CompressionS2)
	}
	validateRate(v, f+".rate_limit", t.RateLimit)
	if n := t.WindowBytes(); n < domain.MinWindow || n > domain.DefaultWindow {
		v.bad(f+".window", fmt.Sprintf("%s is out of range", n), fmt.Sprintf("give %s to %s, or 0 for the default, which is the largest", domain.MinWindow, domain.DefaultWindow))
	}
	for i, w := range t.Schedule {
		wf := fmt.Sprintf("%s.schedule[%d]", f, i)
		validateRate(v, wf+".rate_limit", w.RateLimit)
		validateWindow(v, wf, w.Window())
	}
}

// validateWindow tells what is wrong with a part of the day.
func validateWindow(v *validator, f string, w domain.Window) {
	validateClock(v, f+".from", w.From)
	validateClock(v, f+".to", w.To)
	for j, d := range w.Days {
		if !slices.Contains(domain.Days(), d) {
			v.bad(fmt.Sprintf("%s.days[%d]", f, j), fmt.Sprintf("%q is no day", string(d)), "use mon, tue, wed, thu, fri, sat or sun")
		}
	}
}

// validateLinks wants each link to lead to another data site, once, and to bound something.
func (c Config) validateLinks(v *validator, data map[domain.SiteID]bool) {
	seen := map[domain.SiteID]string{}
	for i, l := range c.Links {
		f := fmt.Sprintf("links[%d]", i)
		once(v, seen, f+".to", l.To, "give each site one link")
		if l.To == c.Site || !data[l.To] {
			v.bad(f+".to", fmt.Sprintf("%q is no other data site", string(l.To)), "name the data site that is sent to")
		}
		if l.RateLimit == 0 && len(l.Schedule) == 0 {
			v.bad(f+".rate_limit", "none", "give a rate or a schedule, or leave the link out")
		}
		validateTransport(v, f, l.Transport())
	}
}

func validateRate(v *validator, f string, r domain.Rate) {
	if r != 0 && r < domain.MinRate {
		v.bad(f, fmt.Sprintf("%d bytes a second are too few", int64(r)), fmt.Sprintf("give at least %s, or 0 for no limit", Size(domain.MinRate)))
	}
}

func validateClock(v *validator, f string, c domain.Clock) {
	if _, err := c.Minutes(); err != nil {
		v.bad(f, fmt.Sprintf("%q is no time of day", string(c)), "write 00:00 to 24:00")
	}
}
