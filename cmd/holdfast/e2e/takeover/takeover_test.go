//go:build e2e

package takeover

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

var product string

func TestMain(m *testing.M) { os.Exit(sitestest.Main(m, &product)) }

// profile is a timing of the lease, and what the vote's design says of it for two sites and a witness that is a service: the bound of
// a takeover at a round trip of 125 ms or less, the simulated loss of a site, the renewals' distance.
type profile struct {
	name                   string
	bound, simP50, simMax  time.Duration
	simMoveMax, renewEvery time.Duration
}

func profiles() []profile {
	return []profile{
		{"default", 7200 * time.Millisecond, 5510 * time.Millisecond, 6500 * time.Millisecond, 580 * time.Millisecond, 1500 * time.Millisecond},
		{"fast", 2400 * time.Millisecond, 1830 * time.Millisecond, 2270 * time.Millisecond, 500 * time.Millisecond, 450 * time.Millisecond},
	}
}

// TestTakeoverBench is task bench:takeover.
func TestTakeoverBench(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("HOLDFAST_BENCH_TAKEOVER"))
	if err != nil || n < 1 {
		t.Skip("SKIPPED: a measurement, not a test: task bench:takeover")
	}
	out := results{CPUs: runtime.NumCPU(), Sites: "two data sites and a witness, each a process on one machine; one group, synchronous, hold-down 100 ms; both profiles at once, as they wait most of the time"}
	out.Profiles = make([]profileResult, len(profiles()))
	t.Run("profiles", func(t *testing.T) {
		for i, p := range profiles() {
			t.Run(p.name, func(t *testing.T) {
				t.Parallel()
				out.Profiles[i] = measure(t, p, n)
			})
		}
	})
	if t.Failed() {
		return
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv("HOLDFAST_BENCH_RESULT"), append(raw, '\n'), 0o644); err != nil { //nolint:gosec // a result to be read
		t.Fatal(err)
	}
}

// bench is one set of sites under measurement. at serves the group, other is its target.
type bench struct {
	*sitestest.Sites
	t         *testing.T
	at, other string
	web       *http.Client
}

// perSites is how many losses one set of sites has. A site that falls again and again is trusted the later, whatever falls next: what
// is measured are losses of installations that were well.
const perSites = 4

func measure(t *testing.T, p profile, n int) profileResult {
	res := profileResult{Profile: p.name, BoundMs: ms(p.bound), SimulatedP50Ms: ms(p.simP50), SimulatedMaxMs: ms(p.simMax), SimulatedMoveMaxMs: ms(p.simMoveMax)}
	var lease, answered, confirmed, run, without, outage samples
	for from := 0; from < n; from += perSites {
		on(t, "losses", p, func(b *bench) {
			for i := from; i < min(n, from+perSites); i++ {
				time.Sleep(time.Duration(rand.Int64N(int64(p.renewEvery)))) // the loss comes anywhere between two renewals
				l := b.lose()
				lease, answered, confirmed = append(lease, l.lease), append(answered, l.answered), append(confirmed, l.confirmed)
				b.t.Logf("%s: loss %d of %d: the lease after %s, the workload after %s", p.name, i+1, n, l.lease, l.answered)
			}
		})
	}
	steps := map[string]*samples{}
	on(t, "moves", p, func(b *bench) {
		for i := range n {
			m := b.move()
			run, without, outage = append(run, m.run), append(without, m.withoutLease), append(outage, m.outage)
			for kind, took := range m.steps {
				if steps[kind] == nil {
					steps[kind] = &samples{}
				}
				*steps[kind] = append(*steps[kind], took)
			}
			b.t.Logf("%s: move %d of %d: %s in all, %s without a lease, the workload away for %s", p.name, i+1, n, m.run, m.withoutLease, m.outage)
		}
	})
	if t.Failed() {
		return res
	}
	res.Losses = lossResult{Count: n, Confirmed: confirmed.summary(), Lease: lease.summary(), Answered: answered.summary(), WithinBound: lease.within(p.bound)}
	res.Moves = moveResult{Count: n, Run: run.summary(), WithoutLease: without.summary(), Outage: outage.summary(), UnderASecond: without.within(time.Second), Steps: map[string]summary{}}
	for kind, s := range steps {
		res.Moves.Steps[kind] = s.summary()
	}
	return res
}

// on measures on sites of its own.
func on(t *testing.T, what string, p profile, f func(*bench)) {
	t.Run(what, func(t *testing.T) {
		b := &bench{Sites: sitestest.New(t, sitestest.Options{Product: product, Mode: "sync", Driver: "embedded", Timing: p.name}), t: t, at: "a", other: "b",
			web: &http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}}
		b.ready()
		f(b)
	})
}

// ready waits until the group is served, answers, and could be taken over without loss, and until no site is suspected by another.
func (b *bench) ready() {
	b.Serves(b.at)
	b.answers(b.at)
	b.Start(slices.DeleteFunc([]string{b.other}, b.Runs)...)
	b.Follows(b.at, true)
	for end := time.Now().Add(4 * time.Minute); !b.well(); time.Sleep(100 * time.Millisecond) { // the command is a process of its own
		if time.Now().After(end) {
			b.t.Fatal("a site stays suspected")
		}
	}
}

// well reports whether each site's observer trusts itself and finds every other site alive.
func (b *bench) well() bool {
	var now struct {
		Sites []api.HealthStatus `json:"sites"`
	}
	out, err := b.Run("health", "show", "--output", "json")
	if err != nil || json.Unmarshal(out, &now) != nil {
		return false
	}
	for _, s := range now.Sites {
		if s.View.Sick || slices.ContainsFunc(s.View.Observations, func(o api.Observation) bool { return o.Kind == "site" && o.State != api.StateAlive }) {
			return false
		}
	}
	return true
}

// answers waits until the workload answers at a site, and gives when it did.
func (b *bench) answers(site string) time.Time {
	b.t.Helper()
	end := time.Now().Add(4 * time.Minute)
	for !b.answersNow(site) {
		if time.Now().After(end) {
			b.t.Fatalf("the workload never answered at site %s", site)
		}
		time.Sleep(2 * time.Millisecond) // a client that asks again
	}
	return time.Now()
}

func (b *bench) answersNow(site string) bool {
	ctx, cancel := context.WithTimeout(b.t.Context(), 500*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.VMAddress(site)+"/healthz", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	resp, err := b.web.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// ended waits until a site has led a run of the kind, begun after a moment, to its end.
func (b *bench) ended(site, kind string, after time.Time) api.Run {
	b.t.Helper()
	end := time.Now().Add(4 * time.Minute)
	for {
		var l api.RunList
		if out, err := b.Run("run", "list", "--site", site, "--output", "json"); err == nil && json.Unmarshal(out, &l) == nil {
			for _, r := range l.Runs {
				if r.Kind == kind && string(r.Leader) == site && r.Started.After(after) && r.State == api.StepDone {
					return r
				}
			}
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %s to site %s is done: %+v", kind, site, l.Runs)
		}
		time.Sleep(100 * time.Millisecond) // the command is a process of its own
	}
}

// stepOf is the group's one step of a kind.
func (b *bench) stepOf(r api.Run, kind string) api.Step {
	b.t.Helper()
	for _, s := range r.Steps {
		if s.Kind == kind {
			return s
		}
	}
	b.t.Fatalf("run %s has no step %s", r.ID, kind)
	return api.Step{}
}

// loss is what one loss took. All times are of this machine's one clock, from the moment before the site's process was killed.
type loss struct{ confirmed, lease, answered time.Duration }

// lose kills the site that serves, measures, and brings it back as the target.
func (b *bench) lose() loss {
	b.t.Helper()
	began := time.Now()
	b.Kill(b.at)
	b.at, b.other = b.other, b.at
	answered := b.answers(b.at)
	r := b.ended(b.at, api.RunFailover, began)
	out := loss{confirmed: r.Confirmed.Sub(began), lease: b.stepOf(r, plan.KindAcquire).Ended.Sub(began), answered: answered.Sub(began)}
	b.ready()
	return out
}

// move is what one planned move took.
type move struct {
	run          time.Duration // from its first step to its last
	withoutLease time.Duration // from the old holder's release to the new holder's lease
	outage       time.Duration // of the workload, as a client sees it: from its last answer there to its first here
	steps        map[string]time.Duration
}

// move moves the group to the other site.
func (b *bench) move() move {
	b.t.Helper()
	from, to := b.at, b.other
	last := make(chan time.Time, 1)
	gone := make(chan struct{})
	go func() { // the last answer at the old site
		var at time.Time
		for {
			if b.answersNow(from) {
				at = time.Now()
			} else if b.answersNow(to) {
				break
			}
			select {
			case <-gone:
				last <- at
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
		last <- at
	}()
	began := time.Now()
	b.Must(nil, "run", "start", "--plan", sitestest.Plan, "--kind", "switchover", "--from", from, "--to", to, "--reason", "measured", "--wait=false")
	first := b.answers(to)
	r := b.ended(to, api.RunSwitchover, began)
	close(gone)
	out := move{run: r.Ended.Sub(r.Started), withoutLease: b.stepOf(r, plan.KindAcquire).Ended.Sub(b.stepOf(r, plan.KindRelease).Started),
		outage: first.Sub(<-last), steps: map[string]time.Duration{}}
	for _, s := range r.Steps {
		out.steps[s.Kind] += s.Ended.Sub(s.Started)
	}
	b.at, b.other = to, from
	b.ready()
	return out
}
