//go:build e2e

package quorum

import (
	"fmt"
	"strings"
	"time"
)

// result is what became of one kind of fault.
type result struct {
	count, takeovers, violations int
	longest                      time.Duration // without service
}

type results struct {
	began  time.Time
	byKind map[string]*result
}

func newResults() *results { return &results{began: time.Now(), byKind: map[string]*result{}} }

func (r *results) add(name string, takeovers int, outage time.Duration, violation error) {
	got := r.byKind[name]
	if got == nil {
		got = &result{}
		r.byKind[name] = got
	}
	got.count++
	got.takeovers += takeovers
	got.longest = max(got.longest, outage)
	if violation != nil {
		got.violations++
	}
}

func (r *results) table() string {
	var b strings.Builder
	line := func(name string, one result) {
		fmt.Fprintf(&b, "%-16s %6d %9d %9.2f s %10d\n", name, one.count, one.takeovers, one.longest.Seconds(), one.violations)
	}
	fmt.Fprintf(&b, "after %s\n%-16s %6s %9s %11s %10s\n", time.Since(r.began).Round(time.Second), "fault", "count", "takeovers", "no service", "violations")
	var all result
	for _, k := range kinds() {
		one := r.byKind[k.name]
		if one == nil {
			continue
		}
		line(k.name, *one)
		all.count, all.takeovers, all.violations, all.longest = all.count+one.count, all.takeovers+one.takeovers, all.violations+one.violations, max(all.longest, one.longest)
	}
	line("all", all)
	return b.String()
}
