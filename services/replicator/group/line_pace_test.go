package group

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
)

func TestALineIsTriedAgainLaterEachTime(t *testing.T) {
	const s, m = time.Second, time.Minute
	now := time.Unix(1000, 0)
	p := linePace{timing: Timing{}.withDefaults()}
	unreached, mute := func() { p.isUnreached(now) }, func() { p.isMute(now) }
	for i, step := range []struct {
		what string
		do   func()
		want time.Duration
	}{
		{"at first", func() {}, 0},
		{"unreached", unreached, 30 * s},
		{"again", unreached, m},
		{"again", unreached, 2 * m},
		{"again", unreached, 4 * m},
		{"as rarely as it gets", unreached, 5 * m},
		{"as rarely as it gets", unreached, 5 * m},
		{"opened, and mute", func() { p.isOpen(); mute() }, 30 * s},
		{"again", func() { p.isOpen(); mute() }, m},
		{"unreached between", unreached, 30 * s},
		{"mute as before", func() { p.isOpen(); mute() }, 2 * m},
		{"it carried for a while", func() { p.carried(29 * m); mute() }, 4 * m},
		{"again", mute, 8 * m},
		{"again", mute, 16 * m},
		{"as rarely as it gets", mute, 30 * m},
		{"as rarely as it gets", mute, 30 * m},
		{"it carried for long", func() { p.carried(30 * m); mute() }, 30 * s},
		{"it leads elsewhere", p.begin, 0},
		{"mute there", mute, 30 * s},
	} {
		step.do()
		if got := p.wait(now); got != step.want {
			t.Errorf("step %d, %s: %s, want %s", i, step.what, got, step.want)
		}
		now = now.Add(p.wait(now))
		if got := p.wait(now.Add(time.Hour)); got != 0 {
			t.Errorf("step %d, %s: %s an hour later", i, step.what, got)
		}
	}
}

// The firewall is closed at first, and opened later: nobody has to do anything at either replicator.
func TestFramesGoByTheLineOnceItIsReached(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		for _, how := range []string{"refused", "swallowed"} {
			t.Run(string(mode)+" "+how, func(t *testing.T) {
				c, w := wiring(t, mode)
				c.pace.LineAgain, c.pace.LineUnreached = 50*time.Millisecond, 200*time.Millisecond
				c.pace.TargetTimeout = 5 * time.Second // the machine may be busy
				closed := &w.shut
				if how == "swallowed" {
					closed = &w.forth
				}
				closed.Store(true)
				c.serves()
				a := c.nodes["a"]
				written, stop := a.writes(4)
				at := written.Load()
				eventually(t, "it is tried again, and writes go on", func() bool { return len(w.tried()) >= 3 && written.Load() > at+100 })
				if ts := c.target("a", "b"); ts.Way != api.WayNATS || !strings.HasPrefix(ts.NoLine, w.ln.Addr().String()+": ") {
					t.Errorf("by %q, as %q", ts.Way, ts.NoLine)
				}
				closed.Store(false)
				eventually(t, "the stream moves to the line", func() bool { return c.target("a", "b").Way == api.WayLine })
				at = written.Load()
				eventually(t, "writes go on", func() bool { return written.Load() > at+100 })
				stop()
				c.follows("a", "b")
				c.same("a", "b")
				ts := c.target("a", "b")
				if got, want := c.nodes["b"].arrived(), a.g.store.last(); !a.byLineNow() || got != want || ts.NoLine != "" {
					t.Errorf("by a line: %v (%q), up to %d of %d", a.byLineNow(), ts.NoLine, got, want)
				}
				if ts.Breaks != 0 || a.facts.has("target_stalled") || a.facts.has("target_lost") {
					t.Errorf("%d breaks, or the target counts as stalled or lost", ts.Breaks)
				}
			})
		}
	}
}

// The target's port is taken at first. The primary asks for the line when it is offered, though not at once after it had asked before.
func TestATargetThatGetsItsPortLateIsSentToByALine(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c, w := wiring(t, mode)
			c.pace.LineAgain, c.pace.TargetTimeout = 500*time.Millisecond, 5*time.Second
			c.late = true
			began := time.Now()
			c.serves()
			a, b := c.nodes["a"], c.nodes["b"]
			if ts := c.target("a", "b"); ts.Way != api.WayNATS || ts.NoLine != "" {
				t.Errorf("by %q, as %q", ts.Way, ts.NoLine)
			}
			written, stop := a.writes(4)
			b.lines.At(w.ln.Addr().String())
			eventually(t, "the stream moves to the line", func() bool { return c.target("a", "b").Way == api.WayLine })
			at := written.Load()
			eventually(t, "writes go on", func() bool { return written.Load() > at+100 })
			stop()
			c.follows("a", "b")
			c.same("a", "b")
			tries := w.tried()
			if len(tries) != 1 || tries[0].Sub(began) < c.pace.LineAgain {
				t.Errorf("tried %d times, first %s after the beginning", len(tries), tries[0].Sub(began))
			}
			if ts := c.target("a", "b"); ts.Breaks != 0 || a.facts.has("target_stalled") || a.facts.has("target_lost") {
				t.Errorf("%d breaks, or the target counts as stalled or lost", ts.Breaks)
			}
		})
	}
}

// What stands between lets the hello and the welcome pass, and nothing that is larger, as where packets of full size are lost.
func TestALineThatIsOpenedAndCarriesNothingIsOpenedEverMoreRarely(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c, w := wiring(t, mode)
			c.pace.TargetTimeout, c.pace.LineAgain = 400*time.Millisecond, 100*time.Millisecond
			w.hellos.Store(true)
			c.boot("a", "b")
			c.promote("a", 257)
			_, stop := c.nodes["a"].writes(2)
			to := c.nodes["a"].g.current().senders.get("b")
			given := map[time.Duration]time.Time{} // the wait after each giving-up, and when it ended
			eventually(t, "the line is given up three times", func() bool {
				to.mu.Lock()
				defer to.mu.Unlock()
				if to.lines.mute > 0 && to.lines.unreached == 0 {
					given[to.lines.mute] = to.lines.notBefore
				}
				return to.lines.mute >= 4*c.pace.LineAgain
			})
			eventually(t, "NATS carries the frames", func() bool {
				ts := c.target("a", "b")
				return ts.Way == api.WayNATS && strings.Contains(ts.NoLine, "nothing came by it")
			})
			for _, at := range w.tried() {
				for wait, until := range given {
					if at.After(until.Add(-wait)) && at.Before(until) {
						t.Errorf("tried %s before a wait of %s had ended", until.Sub(at), wait)
					}
				}
			}
			w.hellos.Store(false)
			var by *outgoing
			var told uint64
			eventually(t, "the stream moves to the line once that carries", func() bool {
				out := to.lineOut()
				if out == nil || out.line == nil {
					return false
				}
				if out != by {
					by, told = out, out.lineAt.Load() // where the rejoin found the target
				}
				return out.lineAt.Load() > told
			})
			stop()
			c.follows("a", "b")
			c.same("a", "b")
		})
	}
}

// A probe that is told that the token is unknown has a rejoin ask for another: the receiver has ended, or somebody else is at the address.
func TestAnOfferThatHasEndedIsAskedForAnew(t *testing.T) {
	c, w := wiring(t, domain.ModeSync)
	c.pace.LineAgain = 50 * time.Millisecond
	w.shut.Store(true)
	c.serves()
	to := c.nodes["a"].g.current().senders.get("b")
	offer := c.nodes["b"].g.lineOffered()
	ended := *offer
	ended.Token = strings.Repeat("A", len(offer.Token))
	w.shut.Store(false)
	if err := to.lineMayBeHad(t.Context(), &ended); !errors.Is(err, errRejoin) || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("the probe ends with %v", err)
	}
	eventually(t, "the stream moves to the line", func() bool { return c.target("a", "b").Way == api.WayLine })
	// Shown to somebody else right after it was given, it is not asked for again and again.
	to.triedLine(offer, domain.ErrNotFound)
	to.triedLine(offer, domain.ErrNotFound)
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.lines.mute != 2*c.pace.LineAgain {
		t.Errorf("it is asked for again after %s", to.lines.mute)
	}
}

func TestWhyThereIsNoLineIsToldInAFewWords(t *testing.T) {
	c, w := wiring(t, domain.ModeAsync)
	c.serves()
	to := c.nodes["a"].g.current().senders.get("b")
	text := func(address string) string {
		o := line.Offer{Address: address, Token: c.nodes["b"].g.lineOffered().Token}
		_, err := to.dialLine(t.Context(), &o, func(line.Ack) {})
		if err == nil {
			t.Fatalf("%s was reached", address)
		}
		return strings.TrimPrefix(noLineText(&o, err), address+": ")
	}
	if got := text("127.0.0.1:1"); got != "connect: connection refused" {
		t.Errorf("where nobody listens: %q", got)
	}
	w.forth.Store(true)
	if got := text(w.ln.Addr().String()); got != "no answer within 1s" {
		t.Errorf("where nobody answers: %q", got)
	}
}
