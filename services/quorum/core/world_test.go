package core

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// world joins candidates, active voters and shares with a fixed latency on one clock, and writes down what happens.
type world struct {
	t       *testing.T
	now     Instant
	latency time.Duration
	voters  map[VoterID]*Voter
	shares  map[VoterID]*share
	cands   map[domain.SiteID]*Candidate
	passive map[domain.SiteID]map[VoterID]*Passive
	down    map[string]bool // a voter, a site, or "a>v1" and "v1>a" for one direction
	queue   []event
	order   int
	lines   []string
	mute    bool
}

type share struct {
	version uint64
	rec     Record
}

type event struct {
	at    Instant
	order int
	run   func()
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func newWorld(t *testing.T, voters ...VoterID) *world {
	w := &world{t: t, latency: ms(5), voters: map[VoterID]*Voter{}, shares: map[VoterID]*share{},
		cands: map[domain.SiteID]*Candidate{}, passive: map[domain.SiteID]map[VoterID]*Passive{}, down: map[string]bool{}}
	for _, id := range voters {
		if strings.HasPrefix(string(id), "share") {
			w.shares[id] = &share{}
			continue
		}
		w.voters[id] = NewVoter(id, Record{}, Volatile{})
	}
	return w
}

func weightsOf(ids ...VoterID) Weights {
	out := Weights{}
	for _, id := range ids {
		out[id] = 1
	}
	return out
}

func (w *world) params(site domain.SiteID, rank int, initial Register) Params {
	return Params{Self: site, Index: int(site[0]-'a') + 1, Rank: rank, Timing: DefaultTiming(), Initial: initial,
		Sites: map[VoterID]domain.SiteID{"va": "a", "vb": "b", "vw": "w", "vx": "x", "vy": "y", "share": "w"}, Incarnation: 1}
}

func (w *world) candidate(p Params) *Candidate {
	c := NewCandidate(p)
	w.cands[p.Self] = c
	w.passive[p.Self] = map[VoterID]*Passive{}
	for id := range w.shares {
		w.passive[p.Self][id] = NewPassive(id, p.Timing)
	}
	return c
}

func (w *world) after(d time.Duration, run func()) {
	w.order++
	w.queue = append(w.queue, event{w.now.Add(d), w.order, run})
}

func (w *world) logf(format string, args ...any) {
	if !w.mute {
		w.lines = append(w.lines, fmt.Sprintf("%6.3f ", time.Duration(w.now).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) cut(from, to string) bool { return w.down[from] || w.down[to] || w.down[from+">"+to] }

// do carries out what a candidate asked for.
func (w *world) do(site domain.SiteID, actions []Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			w.send(site, a)
		case Granted:
			if a.Forced {
				w.logf("%s FORCED %s", site, a.Epoch)
			}
			w.logf("%s GRANTED %s until %.3f in sync %v%s", site, a.Epoch, time.Duration(a.Deadline).Seconds(), a.Reg.InSync, lossNote(a))
		case Extended:
			w.logf("%s extended until %.3f", site, time.Duration(a.Deadline).Seconds())
		case Lost:
			w.logf("%s LOST %s: %s", site, a.Epoch, a.Reason)
		case Released:
			w.logf("%s RELEASED %s to %q", site, a.Epoch, a.Successor)
		case Vacated:
			w.logf("%s vacated %s for %q", site, a.Epoch, a.Successor)
			if next := w.cands[a.Successor]; next != nil {
				w.after(w.latency, func() { w.do(a.Successor, next.Hint(w.now)) })
			}
		case InSyncCommitted:
			w.logf("%s in sync %v committed (%d)", site, a.InSync, a.Counter)
		case ConfigCommitted:
			w.logf("%s configuration %d committed: %v", site, a.Config.Version, a.Config.Voters())
		case ForceRefused:
			w.logf("%s force refused: %s %v", site, a.Reason, a.Voters)
		case Refused:
			w.logf("%s refused: %s", site, a.Reason)
		case PhaseChanged:
			w.logf("%s phase %s", site, a.Phase)
		}
	}
}

func lossNote(g Granted) string {
	if !g.AcceptLoss {
		return ""
	}
	return " loss accepted: " + g.Estimate
}

func (w *world) send(site domain.SiteID, s Send) {
	if s.Req.Verb != Probe && s.Req.Verb != Renew {
		w.logf("%s -> %s %s %s", site, s.To, s.Req.Verb, s.Req.Epoch)
	}
	if p := w.passive[site][s.To]; p != nil {
		w.doPassive(site, s.To, p.Request(w.now, s.Req))
		return
	}
	w.after(w.latency, func() {
		if w.cut(string(site), string(s.To)) {
			return
		}
		out := w.voters[s.To].Handle(w.now, s.Req)
		if out.Reply.Verdict != OK {
			w.logf("%s %s to %s: %s", s.To, s.Req.Verb, site, out.Reply.Verdict)
		}
		w.after(w.latency, func() {
			if !w.cut(string(s.To), string(site)) {
				w.do(site, w.cands[site].Receive(w.now, out.Reply))
			}
		})
	})
}

func (w *world) doPassive(site domain.SiteID, id VoterID, actions []PassiveAction) {
	p, sh := w.passive[site][id], w.shares[id]
	for _, a := range actions {
		switch a := a.(type) {
		case ReadRecord:
			w.after(2*w.latency, func() {
				ok := !w.cut(string(site), string(id))
				w.doPassive(site, id, p.ReadDone(w.now, a.Op, sh.version, sh.rec, ok))
			})
		case SwapRecord:
			w.after(2*w.latency, func() {
				how := SwapUnknown
				if !w.cut(string(site), string(id)) {
					how = SwapLost
					if sh.version == a.Expect {
						sh.version, sh.rec, how = sh.version+1, a.Rec, SwapWon
					}
				}
				w.doPassive(site, id, p.SwapDone(w.now, a.Op, how))
			})
		case PassiveReply:
			w.do(site, w.cands[site].Receive(w.now, a.Resp))
		}
	}
}

// until runs the world up to an instant.
func (w *world) until(end Instant) {
	for {
		next, run := end, func() {}
		at := -1
		for i, e := range w.queue {
			if e.at < next || e.at == next && at >= 0 && e.order < w.queue[at].order {
				next, run, at = e.at, e.run, i
			}
		}
		for _, site := range w.sites() {
			if w.down[string(site)] {
				continue
			}
			if t, ok := w.cands[site].NextWake(); ok && t < next {
				next, at = t, -1
				run = func() { w.do(site, w.cands[site].Tick(w.now)) }
			}
			for id, p := range w.passive[site] {
				if t, ok := p.NextWake(); ok && t < next {
					next, at = t, -1
					run = func() { w.doPassive(site, id, p.Tick(w.now)) }
				}
			}
		}
		if next >= end {
			w.now = end
			return
		}
		if at >= 0 {
			w.queue = slices.Delete(w.queue, at, at+1)
		}
		w.now = max(w.now, next)
		run()
	}
}

func (w *world) run(d time.Duration) { w.until(w.now.Add(d)) }

func (w *world) sites() []domain.SiteID {
	var out []domain.SiteID
	for s := range w.cands {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// expect compares the transcript so far, and begins a new one.
func (w *world) expect(want string) {
	w.t.Helper()
	got := strings.Join(w.lines, "\n")
	w.lines = nil
	var trimmed []string
	for _, l := range strings.Split(strings.TrimSpace(want), "\n") {
		trimmed = append(trimmed, "%"+strings.TrimSpace(l))
	}
	var have []string
	for _, l := range strings.Split(strings.TrimSpace(got), "\n") {
		have = append(have, "%"+strings.TrimSpace(l))
	}
	if !slices.Equal(trimmed, have) {
		w.t.Errorf("transcript differs\n--- got\n%s\n--- want\n%s", strings.Join(have, "\n"), strings.Join(trimmed, "\n"))
	}
}
