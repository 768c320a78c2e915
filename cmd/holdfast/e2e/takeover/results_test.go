//go:build e2e

package takeover

import (
	"math"
	"slices"
	"time"
)

// results is bench/results/takeover.json. Times are milliseconds.
type results struct {
	Sites    string          `json:"sites"`
	CPUs     int             `json:"cpus"`
	Profiles []profileResult `json:"profiles"`
}

type profileResult struct {
	Profile            string     `json:"profile"`
	BoundMs            float64    `json:"bound_ms"`
	SimulatedP50Ms     float64    `json:"simulated_p50_ms"`
	SimulatedMaxMs     float64    `json:"simulated_max_ms"`
	SimulatedMoveMaxMs float64    `json:"simulated_move_max_ms"`
	Losses             lossResult `json:"losses"`
	Moves              moveResult `json:"moves"`
}

// lossResult counts from the moment in which the site's process is killed.
type lossResult struct {
	Count       int     `json:"count"`
	Confirmed   summary `json:"disaster_confirmed"`
	Lease       summary `json:"new_holder_has_the_lease"`
	Answered    summary `json:"workload_answered"`
	WithinBound int     `json:"leases_within_bound"`
}

type moveResult struct {
	Count        int                `json:"count"`
	Run          summary            `json:"run"`
	WithoutLease summary            `json:"release_to_lease"`
	Outage       summary            `json:"workload_away"`
	UnderASecond int                `json:"release_to_lease_under_a_second"`
	Steps        map[string]summary `json:"steps"`
}

type summary struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

type samples []time.Duration

// summary gives percentiles by the nearest rank.
func (s samples) summary() summary {
	sorted := slices.Sorted(slices.Values(s))
	at := func(p float64) float64 { return ms(sorted[int(math.Ceil(p*float64(len(sorted))))-1]) }
	return summary{P50: at(0.5), P99: at(0.99), Max: ms(sorted[len(sorted)-1])}
}

func (s samples) within(d time.Duration) int {
	n := 0
	for _, x := range s {
		if x <= d {
			n++
		}
	}
	return n
}

// ms is milliseconds with three digits after the point.
func ms(d time.Duration) float64 { return math.Round(float64(d)/1e3) / 1e3 }
