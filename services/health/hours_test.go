package health

import (
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// weather is what befalls the network and the observers for a while.
type weather struct {
	name    string
	loss    float64
	stream  bool
	spikes  time.Duration // about so far apart; a line's, or all of a site's
	pauses  time.Duration // about so far apart, of one observer
	starved time.Duration // one observer's ticks are so late
}

var weathers = []weather{
	{name: "calm"},
	{name: "5 % lost", loss: 0.05},
	{name: "20 % lost", loss: 0.2},
	{name: "20 % lost and sent again", loss: 0.2, stream: true},
	{name: "latency spikes", spikes: 10 * time.Second},
	{name: "an observer is paused", pauses: 30 * time.Second},
	{name: "an observer is starved", starved: 700 * time.Millisecond},
	{name: "10 % lost, spikes, pauses", loss: 0.1, spikes: 20 * time.Second, pauses: 60 * time.Second},
	{name: "20 % lost, spikes, pauses", loss: 0.2, stream: true, spikes: 20 * time.Second, pauses: 60 * time.Second},
}

// play lets a weather be for a while.
func (w *world) play(x weather, d time.Duration) {
	w.net.loss, w.net.stream = x.loss, x.stream
	victim := w.posts[w.sites[w.rng.IntN(len(w.sites))]]
	victim.starved = x.starved
	end := w.at + d
	every := func(about time.Duration, do func()) {
		if about == 0 {
			return
		}
		var again func()
		again = func() {
			if w.at < end {
				do()
				w.later(about/2+time.Duration(w.rng.Int64N(int64(about))), again)
			}
		}
		again()
	}
	every(x.spikes, w.spike)
	every(x.pauses, func() {
		victim := w.posts[w.sites[w.rng.IntN(len(w.sites))]]
		victim.pausedTil = w.at + time.Duration(w.rng.Int64N(int64(20*time.Second)))
	})
	w.run(d)
	victim.starved = 0
}

// spike delays what one line carries, or all of a site's, by up to a second each way for up to five.
func (w *world) spike() {
	s := spike{w.at + time.Duration(w.rng.Int64N(int64(5*time.Second))), time.Duration(w.rng.Int64N(int64(time.Second)))}
	site, whole := w.sites[w.rng.IntN(len(w.sites))], w.rng.IntN(2) == 0
	for _, far := range w.sites {
		if far == site {
			continue
		}
		w.net.spikes[string(site)+">"+string(far)] = s
		w.net.spikes[string(far)+">"+string(site)] = s
		if !whole {
			return
		}
	}
}

func TestNoFalseDisasterInFourHoursOfLossSpikesAndPauses(t *testing.T) {
	each := 4 * time.Hour / 27 // each weather three times
	rounds := 3
	if testing.Short() {
		each, rounds = time.Minute, 1
	}
	w := newWorld(t, 1, DefaultTiming(), nil)
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	w.play(weathers[0], time.Minute)
	for range rounds {
		for _, x := range weathers {
			disasters, incidents := w.count("disaster."), w.count("incident.")
			w.play(x, each)
			w.play(weathers[0], 40*time.Second) // a pause that began in it ends in it
			if n := w.count("disaster.") - disasters; n > 0 {
				t.Logf("%s: disasters were told of %d times (suspected, over)", x.name, n)
			}
			if n := w.count("incident.") - incidents; n > 0 && x.pauses == 0 { // a paused health service is an incident of its site
				t.Errorf("%s: %d false incidents", x.name, n)
			}
		}
	}
	for _, p := range w.posts {
		if !p.doubted && rounds > 1 {
			t.Errorf("observer %s was paused and never doubted itself", p.site)
		}
	}
	t.Logf("%v: disasters confirmed %d, suspected %d; sites suspected %d; links suspected %d, lost %d", time.Duration(rounds*len(weathers))*each,
		w.count("disaster.confirmed"), w.count("disaster.suspected"), w.count("site.suspected"), w.count("link.suspected"), w.count("link.lost"))
	if n := w.count("disaster.confirmed"); n > 0 {
		t.Errorf("%d false disasters", n)
	}
	w.play(weathers[0], time.Minute)
	killed := w.at // and after all of that it is not numb
	w.down["site/a"] = true
	w.play(weathers[2], 20*time.Second)
	for _, s := range []domain.SiteID{"b", "w"} {
		if !slices.Contains(w.posts[s].said(killed), "disaster.confirmed/a") {
			t.Errorf("site %s: a real loss was not confirmed: %v", s, w.posts[s].said(killed))
		}
	}
}

// mutant is what the design forbids.
type mutant struct {
	name    string
	timing  func(*Timing)
	observe func(*observer)
}

func mutants() []mutant {
	impatient := func(t *Timing) { t.Suspect, t.Dead, t.Window = 1, 1, 0 }
	unaware := func(t *Timing) { t.PauseLimit = 1000 * time.Hour }
	return []mutant{
		{"all three", func(t *Timing) { impatient(t); unaware(t) }, alone},
		{"a fixed time-out of one interval", impatient, nil},
		{"no local awareness", unaware, nil},
		{"one vantage point", func(*Timing) {}, alone},
	}
}

// alone takes its own sight for that of two.
func alone(o *observer) {
	o.decide = func(s assess.State, r assess.Rules, in assess.Input) (assess.State, assess.Result) {
		echo := in.Own
		for _, site := range in.Sites {
			for _, lost := range in.Own.Observations {
				if site != in.Self && lost.Kind == assess.KindSite && lost.Site != site && lost.State == api.StateDead {
					echo.Observer = site
					in.Views[site] = echo
				}
			}
		}
		return assess.Decide(s, r, in)
	}
}

func TestAMutantOfTheDetectorTellsFalseDisasters(t *testing.T) {
	each := time.Minute
	if testing.Short() {
		each = 15 * time.Second
	}
	for i, m := range mutants() {
		if testing.Short() && i > 0 {
			break
		}
		timing := DefaultTiming()
		m.timing(&timing)
		w := newWorld(t, 1, timing, m.observe)
		w.play(weathers[0], time.Minute)
		for _, x := range weathers[1:] {
			w.play(x, each)
		}
		n := w.count("disaster.confirmed")
		t.Logf("%s: %d false disasters in %v", m.name, n, each*time.Duration(len(weathers)-1))
		if i == 0 && n == 0 {
			t.Errorf("%s: not caught", m.name)
		}
	}
}

// deaths kills site a in many worlds, and returns how long after the kill site b confirmed it, in order.
func deaths(t *testing.T, n int, timing Timing, loss float64, warm time.Duration) []time.Duration {
	var took []time.Duration
	for seed := range uint64(n) {
		w := newWorld(t, seed, timing, nil)
		w.net.loss = loss
		w.run(warm + time.Duration(rand.New(rand.NewPCG(seed, 1)).Int64N(int64(timing.Beat))))
		killed := w.at
		w.down["site/a"] = true
		confirmed := func() int {
			return slices.IndexFunc(w.posts["b"].told, func(s saying) bool {
				return s.at >= killed && s.Entity == assess.EntityDisaster && s.Fact == assess.FactConfirmed
			})
		}
		i := -1
		for i < 0 && w.at < killed+15*time.Second {
			w.run(100 * time.Millisecond)
			i = confirmed()
		}
		if i < 0 {
			t.Fatalf("seed %d, %.0f %% lost: never confirmed: %v", seed, loss*100, w.posts["b"].said(killed))
		}
		took = append(took, w.posts["b"].told[i].at-killed)
	}
	slices.Sort(took)
	return took
}

func TestARealLossIsConfirmedAsSoonAsBefore(t *testing.T) {
	n := 40
	if testing.Short() {
		n = 4
	}
	before := DefaultTiming()
	before.Window = 0
	for _, c := range []struct {
		name    string
		timing  Timing
		loss    float64
		warm    time.Duration
		n       int
		p50, mx time.Duration
	}{
		{"six beats flat, clean links", before, 0, 5 * time.Second, n, 3500 * time.Millisecond, 3600 * time.Millisecond},
		{"clean links", DefaultTiming(), 0, 5 * time.Second, n, 3500 * time.Millisecond, 3600 * time.Millisecond},
		{"1 % lost", DefaultTiming(), 0.01, time.Minute, n / 4, 3500 * time.Millisecond, 5000 * time.Millisecond},
		{"20 % lost", DefaultTiming(), 0.2, 3 * time.Minute, n / 4, 6500 * time.Millisecond, 9 * time.Second},
		{"fast, clean links", FastTiming(), 0, 5 * time.Second, n, 1200 * time.Millisecond, 1400 * time.Millisecond},
	} {
		took := deaths(t, c.n, c.timing, c.loss, c.warm)
		p50, p99, worst := took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
		t.Logf("%-28s p50 %v, p99 %v, max %v of %d", c.name, p50.Round(time.Millisecond), p99.Round(time.Millisecond), worst.Round(time.Millisecond), c.n)
		if p50 > c.p50 || worst > c.mx {
			t.Errorf("%s: p50 %v, want %v at most; max %v, want %v", c.name, p50, c.p50, worst, c.mx)
		}
	}
}
