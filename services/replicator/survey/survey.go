// Package survey says what a link between two sites would be to a group: whether synchronous writes are bearable over it, which
// RPO asynchronous ones would reach, and how large a journal rides out an outage. It is pure: what was measured and what was
// recorded go in, advice comes out.
//
// # What is assumed
//
//   - A synchronous write takes as long as the slower of the local journal and the round trip with the target's journal. With
//     journals of one speed that is a round trip longer than without; what the frame itself takes on the link is added.
//   - Replication may have UsableShare of the measured bandwidth, less what the other groups write on average: the rest is for
//     resyncs, positions and whatever else uses the link. What is asynchronous keeps to the transport of the group's target and to the
//     bound of the link besides, as they are at the time that was recorded; what compression saves is not counted on.
//   - The recorded writes are played against that first in, first out (Play).
//   - Light takes FibreMicroseconds for a kilometre of fibre, one way: c, 299,792 km/s, divided by the group index of 1.468 that makers
//     of ITU-T G.652 fibre state for 1550 nm. Switches, routers, encryption and detours all take their part of
//     a round trip, so the distance that follows is an upper bound.
package survey

import (
	"fmt"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// What the advice assumes; see the package documentation.
const (
	UsableShare       = 0.8
	FibreMicroseconds = 4.9
	// DefaultBearable is how much longer a write may take, where nobody says: what stretched clusters are commonly certified for
	// as a round trip, and enough for 200 writes a second of a program that waits for each.
	DefaultBearable = 5 * time.Millisecond
	// wantedRPO is what asynchronous replication is measured by where the group has no target of its own.
	wantedRPO = 60.0
	// enough is how much must have been recorded before the advice is more than a guess.
	enough = 3600.0
)

// DistanceKm is the length of fibre that a round trip allows for at most, with nothing but fibre on the way.
func DistanceKm(roundTrip time.Duration) float64 {
	return float64(roundTrip) / float64(time.Microsecond) / 2 / FibreMicroseconds
}

// Need is one group: how it is replicated now, what was recorded of its writes, and its journal.
type Need struct {
	Group     domain.GroupID
	Mode      domain.Mode      // to the site at the other end
	RPO       time.Duration    // its target, 0 for none
	Transport domain.Transport // by which it travels there
	Second    []Step           // the recorded seconds
	Minute    []Step           // the recorded minutes
	Writes    float64          // changes a second, p95
	PerWrite  float64          // bytes of frames a change, on average
	Journal   int64            // its size
	UsedUpTo  float64          // the share of it that waits for a target before a resync is due
	P95, Peak float64          // bytes of frames a second
}

// Policy is what whoever asks finds bearable.
type Policy struct {
	Bearable time.Duration    // that a synchronous write takes longer, at p99; 0: DefaultBearable
	Outage   time.Duration    // to ride out; 0: an hour
	Bound    domain.Transport // of the link, that all groups share
}

func (p Policy) withDefaults() Policy {
	if p.Bearable <= 0 {
		p.Bearable = DefaultBearable
	}
	if p.Outage <= 0 {
		p.Outage = time.Hour
	}
	return p
}

// Advise says what a link would be to each group.
func Advise(link api.LinkMeasure, needs []Need, p Policy) []api.GroupAdvice {
	p = p.withDefaults()
	whole := 0.0
	for _, n := range needs {
		whole += mean(n.Minute)
	}
	out := make([]api.GroupAdvice, 0, len(needs))
	for _, n := range needs {
		out = append(out, advise(link, n, whole-mean(n.Minute), p))
	}
	return out
}

func advise(link api.LinkMeasure, n Need, others float64, p Policy) api.GroupAdvice {
	a := api.GroupAdvice{Group: n.Group, Mode: n.Mode, RPOTarget: n.RPO.Seconds(), MeanRate: mean(n.Minute), P95Rate: n.P95, PeakRate: n.Peak}
	for _, s := range n.Minute {
		a.Recorded += s.Seconds
	}
	left := max(0, UsableShare*link.Out.BytesPerSecond-others)
	a.Sync = syncAdvice(link, n, left, p)
	a.Async = asyncAdvice(link, n, left, others, p)
	a.Journal = journalAdvice(n, p)
	switch {
	case a.Sync.Bearable:
		a.Advice = api.AdviseSync
	case a.Async.Bearable:
		a.Advice = api.AdviseAsync
	default:
		a.Advice = api.AdviseNeither
	}
	a.Reasons = reasons(link, n, a, left, p)
	return a
}

func syncAdvice(link api.LinkMeasure, n Need, left float64, p Policy) api.SyncAdvice {
	s := api.SyncAdvice{AddedP50: link.RoundTrip.P50, AddedP99: link.RoundTrip.P99}
	frame := 0.0
	if link.Out.BytesPerSecond > 0 {
		frame = 1e3 * n.PerWrite / link.Out.BytesPerSecond
		s.AddedP50, s.AddedP99 = s.AddedP50+frame, s.AddedP99+frame
	}
	s.MaxDistanceKm = max(0, DistanceKm(p.Bearable-time.Duration(frame*float64(time.Millisecond))))
	if s.AddedP50 > 0 {
		s.OneByOne = 1e3 / s.AddedP50
	}
	s.Bearable = measured(link) && link.RoundTrip.Lost == 0 && s.AddedP99 <= p.Bearable.Seconds()*1e3 && n.Peak <= left
	return s
}

func measured(link api.LinkMeasure) bool {
	return link.RoundTrip.Sent > link.RoundTrip.Lost && link.Out.BytesPerSecond > 0
}

func asyncAdvice(link api.LinkMeasure, n Need, left, others float64, p Policy) api.AsyncAdvice {
	wanted := n.RPO.Seconds()
	if wanted <= 0 {
		wanted = wantedRPO
	}
	a := api.AsyncAdvice{Needs: max(Needs(n.Second, wanted), Needs(n.Minute, wanted))}
	byWeek := roomFor(n.Minute, n, left, others, p.Bound)
	a.Room = byWeek.mean(n.Minute)
	if !measured(link) || a.Room <= 0 {
		return a
	}
	hour, week := play(n.Second, roomFor(n.Second, n, left, others, p.Bound)), play(n.Minute, byWeek)
	way := link.RoundTrip.P99 / 2e3
	a.RPO, a.RPOP95 = max(hour.Worst, week.Worst)+way, max(hour.P95, week.P95)+way
	a.Backlog = max(hour.Backlog, week.Backlog)
	a.Bearable = a.RPO <= wanted && mean(n.Minute) < a.Room
	return a
}

func journalAdvice(n Need, p Policy) api.JournalAdvice {
	j := api.JournalAdvice{Outage: p.Outage.Seconds(), Has: n.Journal}
	most := Heaviest(n.Minute, j.Outage)
	if n.UsedUpTo <= 0 || most <= 0 {
		return j
	}
	j.Needs = most / n.UsedUpTo
	j.Lasts = float64(n.Journal) * n.UsedUpTo / (most / j.Outage)
	return j
}

// reasons tells people why, the deciding ones first.
func reasons(link api.LinkMeasure, n Need, a api.GroupAdvice, left float64, p Policy) []string {
	var out []string
	add := func(when bool, format string, args ...any) {
		if when {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	if !measured(link) {
		return []string{"the link was not measured: nothing came back, or replication needed all of it; look at the link, then survey again"}
	}
	bearable := p.Bearable.Seconds() * 1e3
	add(a.Sync.Bearable, "a synchronous write takes %.2f ms longer at p99, within the %.2f ms that are bearable", a.Sync.AddedP99, bearable)
	add(link.RoundTrip.Lost > 0, "%d of %d small requests were lost: every one holds synchronous writes up", link.RoundTrip.Lost, link.RoundTrip.Sent)
	add(a.Sync.AddedP99 > bearable, "a synchronous write takes %.2f ms longer at p99, more than the %.2f ms that are bearable", a.Sync.AddedP99, bearable)
	add(n.Peak > left, "its busiest second writes %s, the link has room for %s a second: synchronous writes would wait for it", Bytes(n.Peak), Bytes(left))
	if under := n.Writes * a.Sync.AddedP50 / 1e3; under > 1 {
		add(true, "at p95 it makes %.0f writes a second: synchronously, %.0f must be under way at once", n.Writes, math.Ceil(under))
	}
	add(a.Async.Bearable, "asynchronously it would have lagged by %.2f s at most", a.Async.RPO)
	add(left <= 0, "the other groups use all of the link")
	room := a.Async.Room
	add(room < left, "asynchronously it may send %s a second on average of the %s that the link has room for: its transport, or the links of this site, hold it back", Bytes(room), Bytes(left))
	add(left > 0 && a.MeanRate >= room, "it writes %s a second on average, the link has room for %s: it would never catch up", Bytes(a.MeanRate), Bytes(room))
	add(left > 0 && !a.Async.Bearable && a.MeanRate < room, "asynchronously it would have lagged by %.1f s, %s; %s a second would do", a.Async.RPO, rpoText(n), Bytes(a.Async.Needs))
	add(a.Journal.Needs > float64(n.Journal), "its journal of %s rides out an outage of %.0f min at its worst; an hour needs %s (journal.size)",
		Bytes(float64(n.Journal)), a.Journal.Lasts/60, Bytes(a.Journal.Needs))
	add(a.Recorded == 0, "nothing is recorded of its writes here yet: this rests on the link alone")
	add(a.Recorded > 0 && a.Recorded < enough, "only %.0f min of writes are recorded: survey again after a busy day", a.Recorded/60)
	add(link.Out.AtLeast, "the link may do more than was measured")
	return out
}

func rpoText(n Need) string {
	if n.RPO > 0 {
		return fmt.Sprintf("its RPO target is %s", n.RPO)
	}
	return fmt.Sprintf("it has no RPO target, and more than %.0f s is taken for too much", wantedRPO)
}

// Bytes writes a number of bytes for people.
func Bytes(n float64) string {
	for _, u := range []struct {
		name string
		size float64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", n)
}
