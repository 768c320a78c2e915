package survey

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const mb = 1e6

// seconds makes a step a second, of so many megabytes each.
func seconds(megabytes ...float64) []Step {
	var out []Step
	for i, m := range megabytes {
		out = append(out, Step{At: 1000 + float64(i), Seconds: 1, Bytes: m * mb, Peak: m * mb})
	}
	return out
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.002*math.Max(1, math.Abs(want)) }

func TestRecordedBurstsPlayedAgainstTheBandwidth(t *testing.T) {
	for _, c := range []struct {
		name                 string
		steps                []Step
		bandwidth            float64
		worst, backlog, left float64
	}{
		{"nothing", nil, 10 * mb, 0, 0, 0},
		{"no link", seconds(1), 0, 0, 0, 0},
		{"a steady second waits for itself only", seconds(5, 5, 5), 10 * mb, 0.5, 5 * mb, 0},
		{"a burst drains behind what follows", seconds(0, 50, 0, 0, 20, 0), 10 * mb, 5, 50 * mb, 20 * mb},
		{"bursts pile up", seconds(30, 30, 0), 10 * mb, 5, 50 * mb, 30 * mb},
		{"more than the link for ever", seconds(20, 20, 20, 20), 10 * mb, 5, 50 * mb, 40 * mb},
		{"what was not recorded drains", []Step{{At: 0, Seconds: 1, Bytes: 50 * mb}, {At: 4, Seconds: 1, Bytes: 20 * mb}}, 10 * mb, 5, 50 * mb, 20 * mb},
		{"a minute's busiest second comes first", []Step{{At: 0, Seconds: 60, Bytes: 89 * mb, Peak: 30 * mb}}, 10 * mb, 3, 30 * mb, 0},
		{"a minute heavier than the link", []Step{{At: 0, Seconds: 60, Bytes: 1200 * mb, Peak: 20 * mb}}, 10 * mb, 61, 610 * mb, 600 * mb},
		{"a part of a minute", []Step{{At: 0, Seconds: 2.5, Bytes: 25 * mb, Peak: 10 * mb}}, 10 * mb, 1, 10 * mb, 0},
	} {
		p := Play(c.steps, c.bandwidth)
		if !near(p.Worst, c.worst) || !near(p.Backlog/mb, c.backlog/mb) || !near(p.Left/mb, c.left/mb) {
			t.Errorf("%s: waited %.3f s, %.1f MB, left %.1f MB; want %.3f, %.1f, %.1f", c.name, p.Worst, p.Backlog/mb, p.Left/mb, c.worst, c.backlog/mb, c.left/mb)
		}
	}
}

func TestP95OfTheDelayLeavesOneSecondInTwentyOut(t *testing.T) {
	load := make([]float64, 100)
	for i := range load {
		load[i] = 1
	}
	load[50] = 9 // waits 0.9 s, the rest 0.1
	if p := Play(seconds(load...), 10*mb); !near(p.P95, 0.1) || !near(p.Worst, 0.9) {
		t.Errorf("p95 %.3f, worst %.3f", p.P95, p.Worst)
	}
}

func TestNeedsIsTheBandwidthAtWhichPlayKeepsTheTime(t *testing.T) {
	for _, steps := range [][]Step{seconds(5), seconds(0, 50, 0, 0, 20), seconds(30, 30, 30, 1), {{At: 0, Seconds: 60, Bytes: 600 * mb, Peak: 80 * mb}}} {
		for _, wait := range []float64{0.2, 1, 30} {
			b := Needs(steps, wait)
			if at := Play(steps, b).Worst; at > wait {
				t.Errorf("%v: at %.1f MB/s it waits %.3f s, more than %.1f", steps, b/mb, at, wait)
			}
			if below := Play(steps, b*0.99).Worst; below <= wait {
				t.Errorf("%v: %.1f MB/s for %.1f s, but 1%% less would do (%.3f s)", steps, b/mb, wait, below)
			}
		}
	}
	if Needs(nil, 1) != 0 {
		t.Error("nothing needs a link")
	}
}

func TestHeaviestStretch(t *testing.T) {
	for _, c := range []struct {
		name   string
		steps  []Step
		length float64
		want   float64
	}{
		{"nothing", nil, 10, 0},
		{"the middle", seconds(1, 9, 8, 1, 0), 2, 17},
		{"all of it", seconds(1, 2, 3), 3, 6},
		{"less than that was recorded: it goes on at its mean", seconds(1, 2, 3), 6, 12},
		{"across a gap", []Step{{At: 0, Seconds: 1, Bytes: 5 * mb}, {At: 100, Seconds: 1, Bytes: 4 * mb}, {At: 101, Seconds: 1, Bytes: 3 * mb}}, 2, 7},
	} {
		if got := Heaviest(c.steps, c.length) / mb; !near(got, c.want) {
			t.Errorf("%s: %.2f MB, want %.2f", c.name, got, c.want)
		}
	}
}

func TestDistanceOfARoundTrip(t *testing.T) {
	if km := DistanceKm(time.Millisecond); !near(km, 102.04) { // half a millisecond each way at 204,000 km/s
		t.Errorf("a millisecond is %.1f km", km)
	}
}

func linkOf(p50, p99, megabytes float64) api.LinkMeasure {
	return api.LinkMeasure{RoundTrip: api.RoundTrips{Sent: 200, P50: p50, P99: p99}, Out: api.Bandwidth{BytesPerSecond: megabytes * mb}}
}

// quiet is a group that writes 1 MB a second, and 6 MB in its busiest.
func quiet() Need {
	n := Need{Group: "erp", Mode: domain.ModeAsync, RPO: 5 * time.Second, Journal: 64 << 20, UsedUpTo: 0.6, Writes: 100, PerWrite: 8192, P95: 2 * mb, Peak: 6 * mb}
	for i := range 120 {
		n.Minute = append(n.Minute, Step{At: float64(60 * i), Seconds: 60, Bytes: 60 * mb, Peak: 6 * mb})
	}
	n.Second = seconds(1, 1, 6, 1, 1)
	return n
}

func TestAdvice(t *testing.T) {
	none := func(Need) Need { return Need{Group: "erp", RPO: 5 * time.Second} }
	same := func(n Need) Need { return n }
	for _, c := range []struct {
		name   string
		link   api.LinkMeasure
		need   func(Need) Need
		advice string
		says   []string
	}{
		{"a metro link", linkOf(0.6, 1.2, 100), same, api.AdviseSync, []string{"within the 5.00 ms", "journal.size"}},
		{"too far for sync", linkOf(20, 31, 100), same, api.AdviseAsync, []string{"more than the 5.00 ms", "lagged by", "at p95 it makes 100 writes a second: synchronously, 3 must"}},
		{"too narrow for the burst", linkOf(0.6, 1.2, 4), same, api.AdviseAsync, []string{"its busiest second writes 6.0 MB"}},
		{"too narrow for the RPO", linkOf(20, 31, 1.3), same, api.AdviseNeither, []string{"its RPO target is 5s", "would do"}},
		{"never catches up", linkOf(20, 31, 1), same, api.AdviseNeither, []string{"never catch up"}},
		{"requests are lost", func() api.LinkMeasure { l := linkOf(0.6, 1.2, 100); l.RoundTrip.Lost = 2; return l }(), same, api.AdviseAsync, []string{"2 of 200 small requests were lost"}},
		{"nothing came back", api.LinkMeasure{RoundTrip: api.RoundTrips{Sent: 5, Lost: 5}}, same, api.AdviseNeither, []string{"was not measured"}},
		{"nothing recorded", linkOf(0.6, 1.2, 100), none, api.AdviseSync, []string{"nothing is recorded"}},
	} {
		a := Advise(c.link, []Need{c.need(quiet())}, Policy{})[0]
		text := strings.Join(a.Reasons, "; ")
		if a.Advice != c.advice {
			t.Errorf("%s: %s because %s", c.name, a.Advice, text)
		}
		for _, s := range c.says {
			if !strings.Contains(text, s) {
				t.Errorf("%s: does not say %q: %s", c.name, s, text)
			}
		}
	}
}

func TestTheOtherGroupsUseTheLinkToo(t *testing.T) {
	big := quiet()
	big.Group = "mail"
	for i := range big.Minute {
		big.Minute[i].Bytes *= 75
	}
	link := linkOf(0.6, 1.2, 100) // 80 MB/s are usable, mail takes 75
	if alone := Advise(link, []Need{quiet()}, Policy{})[0]; alone.Advice != api.AdviseSync {
		t.Fatalf("alone: %+v", alone)
	}
	if beside := Advise(link, []Need{quiet(), big}, Policy{})[0]; beside.Advice != api.AdviseAsync {
		t.Errorf("beside a group that leaves 5 MB/s: %+v", beside)
	}
}

func TestJournalThatRidesOutAnHour(t *testing.T) {
	a := Advise(linkOf(0.6, 1.2, 100), []Need{quiet()}, Policy{})[0].Journal
	if !near(a.Needs/mb, 6000) { // 3,600 MB at 1 MB/s, of which 60 % of the ring may wait
		t.Errorf("needs %.0f MB", a.Needs/mb)
	}
	if !near(a.Lasts, float64(64<<20)*0.6/mb) {
		t.Errorf("64 MiB last %.1f s", a.Lasts)
	}
}

func TestDistanceThatSyncWouldBear(t *testing.T) {
	for _, c := range []struct {
		bearable time.Duration
		perWrite float64
		want     float64
	}{
		{0, 0, 510.2}, {time.Millisecond, 0, 102.04}, {time.Millisecond, 10000, 91.84}, {time.Millisecond, 1e6, 0}, // at 100 MB/s a frame of 10 kB takes 0.1 ms
	} {
		n := quiet()
		n.PerWrite = c.perWrite
		if got := Advise(linkOf(0.6, 1.2, 100), []Need{n}, Policy{Bearable: c.bearable})[0].Sync.MaxDistanceKm; !near(got, c.want) {
			t.Errorf("%s, %.0f bytes a write: %.2f km, want %.2f", c.bearable, c.perWrite, got, c.want)
		}
	}
}

// day is a recorded day from midnight on, with a second of a rate at the beginning of one hour.
func day(hour int, megabytes float64) []Step {
	midnight := time.Date(2026, 11, 23, 0, 0, 0, 0, time.Local)
	var out []Step
	for i := range 24 * 60 {
		s := Step{At: float64(midnight.Unix() + 60*int64(i)), Seconds: 60}
		if i == hour*60 {
			s.Bytes, s.Peak = megabytes*mb, megabytes*mb
		}
		out = append(out, s)
	}
	return out
}

func TestAsyncKeepsToItsOwnLimitAndToTheLinks(t *testing.T) {
	office := []domain.RateWindow{{From: "08:00", To: "18:00", RateLimit: 1 << 20}}
	mib := 1.048576 // MB
	for _, c := range []struct {
		name      string
		steps     []Step
		transport domain.Transport
		bound     domain.Transport
		rpo, room float64 // seconds, MB
	}{
		{"no limit", day(9, 800), domain.Transport{}, domain.Transport{}, 10, 80},
		{"its own", day(9, 800), domain.Transport{RateLimit: 8 << 20}, domain.Transport{}, 800 / (8 * mib), 8 * mib},
		{"the link's", day(9, 800), domain.Transport{}, domain.Transport{RateLimit: 4 << 20}, 800 / (4 * mib), 4 * mib},
		{"the lower one", day(9, 800), domain.Transport{RateLimit: 2 << 20}, domain.Transport{RateLimit: 4 << 20}, 800 / (2 * mib), 2 * mib},
		{"more than the link has", day(9, 800), domain.Transport{RateLimit: 1 << 30}, domain.Transport{RateLimit: 1 << 30}, 10, 80},
		{"by night", day(20, 800), domain.Transport{Schedule: office}, domain.Transport{}, 10, (80*14 + mib*10) / 24},
		{"by day", day(9, 800), domain.Transport{Schedule: office}, domain.Transport{}, 800 / mib, (80*14 + mib*10) / 24},
		// Until six it has sent 32400 s of 1 MiB, and the rest goes in a moment.
		{"until the window ends", day(9, 35000), domain.Transport{Schedule: office}, domain.Transport{}, 32400 + (35000-32400*mib)/80, (80*14 + mib*10) / 24},
		{"the link's schedule", day(9, 800), domain.Transport{RateLimit: 8 << 20}, domain.Transport{Schedule: office}, 800 / mib, (8*mib*14 + mib*10) / 24},
	} {
		n := Need{Group: "erp", RPO: time.Hour, Minute: c.steps, Transport: c.transport}
		a := Advise(linkOf(0, 0, 100), []Need{n}, Policy{Bound: c.bound})[0]
		if !near(a.Async.RPO, c.rpo) || !near(a.Async.Room/mb, c.room) {
			t.Errorf("%s: lags by %.2f s with room for %.3f MB/s, want %.2f and %.3f", c.name, a.Async.RPO, a.Async.Room/mb, c.rpo, c.room)
		}
		held := c.transport.RateLimit|c.bound.RateLimit != 0 && c.room < 80 || len(c.transport.Schedule)+len(c.bound.Schedule) > 0
		if told := strings.Contains(strings.Join(a.Reasons, "; "), "hold it back"); told != held {
			t.Errorf("%s: it says that something holds it back: %v, %v", c.name, told, a.Reasons)
		}
	}
}

// What the other groups write comes off the link's bound, and not off a group's own limit.
func TestTheOtherGroupsComeOffTheLinksBound(t *testing.T) {
	other := quiet() // 1 MB a second
	n := Need{Group: "mail", RPO: time.Hour, Minute: day(9, 800)}
	p := Policy{Bound: domain.Transport{RateLimit: 4 << 20}}
	if a := Advise(linkOf(0, 0, 100), []Need{n, other}, p)[0]; !near(a.Async.Room/mb, 4*1.048576-1) {
		t.Errorf("room for %.3f MB/s", a.Async.Room/mb)
	}
	n.Transport.RateLimit = 2 << 20
	if a := Advise(linkOf(0, 0, 100), []Need{n, other}, p)[0]; !near(a.Async.Room/mb, 2*1.048576) {
		t.Errorf("with a limit of its own, room for %.3f MB/s", a.Async.Room/mb)
	}
	p.Bound.RateLimit = 64 << 10
	if a := Advise(linkOf(0, 0, 100), []Need{n, other}, p)[0]; a.Async.Room != 0 || a.Async.Bearable || a.Async.RPO != 0 {
		t.Errorf("where the others use all of the bound: %+v", a.Async)
	}
}

func TestWhatAScheduleNeverLetsGoWaitsForTheHorizon(t *testing.T) {
	steps := []Step{{At: 600, Seconds: 1, Bytes: mb}}
	m := newByMinute(steps, func(time.Time) float64 { return 0 })
	if w := m.wait(mb, 600); w < horizon || w > horizon+120 {
		t.Errorf("it waits %.0f s", w)
	}
	if w := m.wait(0, 600); w != 0 {
		t.Errorf("nothing waits %.0f s", w)
	}
}
