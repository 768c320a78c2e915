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
	for i, w := range t.Schedule {
		wf := fmt.Sprintf("%s.schedule[%d]", f, i)
		validateRate(v, wf+".rate_limit", w.RateLimit)
		validateClock(v, wf+".from", w.From)
		validateClock(v, wf+".to", w.To)
		for j, d := range w.Days {
			if !slices.Contains(domain.Days(), d) {
				v.bad(fmt.Sprintf("%s.days[%d]", wf, j), fmt.Sprintf("%q is no day", string(d)), "use mon, tue, wed, thu, fri, sat or sun")
			}
		}
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
