package detect

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Threshold is the suspicion at which an object is dead: a silence that a link with this one's history has once in 10^8
// beats.
const Threshold = 8.0

// Params is how a Detector judges.
type Params struct {
	Interval   time.Duration // between two beats or probes
	Suspect    int           // missed in a row on a clean link: suspect
	Dead       int           // missed in a row on a clean link: dead; above Suspect
	Recover    int           // good ones in a row after death: alive; above Dead
	Grace      time.Duration // how long an object may be silent before its first answer
	FlapWindow time.Duration // falls within it are damped; 0 damps none
	Window     int           // answers that a link's history remembers; 0: every link is judged as a clean one
	Late       int           // missed in a row: dead, on the worst of links; at least Dead, or 0 when Window is
}

// Validate names the field that cannot be.
func (p Params) Validate() error {
	switch {
	case p.Interval <= 0:
		return fmt.Errorf("detector interval %v: must be above zero: %w", p.Interval, domain.ErrInvalid)
	case p.Suspect < 1:
		return fmt.Errorf("detector suspect %d: must be at least 1: %w", p.Suspect, domain.ErrInvalid)
	case p.Dead <= p.Suspect:
		return fmt.Errorf("detector dead %d: must be above suspect, %d: %w", p.Dead, p.Suspect, domain.ErrInvalid)
	case p.Recover <= p.Dead:
		return fmt.Errorf("detector recover %d: must be above dead, %d: %w", p.Recover, p.Dead, domain.ErrInvalid)
	case p.Window < 0 || p.Window > maxWindow:
		return fmt.Errorf("detector window %d: must be 0 to %d: %w", p.Window, maxWindow, domain.ErrInvalid)
	case p.Window > 0 && p.Late < p.Dead:
		return fmt.Errorf("detector late %d: must be at least dead, %d: %w", p.Late, p.Dead, domain.ErrInvalid)
	case p.Grace < 0 || p.FlapWindow < 0:
		return fmt.Errorf("detector grace %v, flap window %v: must not be below zero: %w", p.Grace, p.FlapWindow, domain.ErrInvalid)
	}
	return nil
}

// maxDoublings bounds the damping: at most Recover<<maxDoublings good ones in a row are asked for.
const maxDoublings = 3

// Detector judges one object on one path. It is not safe for concurrent use. Times are readings of the observer's clock.
type Detector struct {
	p         Params
	state     string
	since     time.Duration // of the state
	lastGood  time.Duration // last answer, or the end of blindness, or of the grace before the first answer
	seen      bool
	wasDead   bool // since it was last alive
	first     time.Duration
	missing   bool          // first is set
	run       int           // good ones in a row while not alive
	lastCount time.Duration // when the row last grew
	falls     []time.Duration

	history  history
	sampled  time.Duration // answer up to which the history goes
	sampling bool          // sampled is set
	suspect  int           // missed in a row that make this object suspect, by its history
	dead     int           // and dead
}

// New begins in state unknown. The parameters must be valid.
func New(p Params, now time.Duration) *Detector {
	return &Detector{p: p, state: api.StateUnknown, since: now, lastGood: now + p.Grace, suspect: p.Suspect, dead: p.Dead}
}

// Good takes an answer and reports whether the state changed. Answers closer together than three quarters of the interval
// (several nodes that vouch for one site) count once in the row that leads back to alive.
func (d *Detector) Good(now time.Duration) bool {
	if d.seen && now < d.lastGood {
		now = d.lastGood
	}
	if now-d.lastGood >= d.p.Interval*3/2 {
		d.run = 0
	}
	d.learn(now)
	d.lastGood, d.seen = now, true
	switch d.state {
	case api.StateUnknown:
		return d.alive(now)
	case api.StateAlive:
		return false
	}
	if d.run == 0 || now-d.lastCount >= d.p.Interval*3/4 {
		d.run++
		d.lastCount = now
	}
	if d.run >= d.needed(now) {
		return d.alive(now)
	}
	if d.state == api.StateDead {
		return d.enter(api.StateSuspect, now)
	}
	return false
}

// Tick lets time pass and reports whether the state changed.
func (d *Detector) Tick(now time.Duration) bool {
	missed := d.Missed(now)
	switch {
	case d.state == api.StateDead || missed < d.suspect:
		return false
	case d.state == api.StateUnknown && missed < d.dead:
		return false
	case missed >= d.dead:
		d.fall(now)
		d.wasDead, d.run = true, 0
		return d.enter(api.StateDead, now)
	case d.state == api.StateAlive:
		d.fall(now)
		return d.enter(api.StateSuspect, now)
	}
	return false
}

// Forgive tells that the observer itself could not hear until now: nothing missed so far counts. The state stays.
func (d *Detector) Forgive(now time.Duration) {
	d.run, d.sampling = 0, false
	if now > d.lastGood {
		d.lastGood = now
	}
}

// Excuse tells that the observer itself did not run for a part of the time up to now: that part is not counted as silence.
func (d *Detector) Excuse(now, late time.Duration) {
	if !d.seen || d.state == api.StateDead {
		return // within its grace, or lost already: nothing is counted
	}
	d.lastGood = min(now, d.lastGood+late)
	d.sampled = min(now, d.sampled+late)
}

// learn adds an answer to the history of the link. Those closer together than three quarters of the interval are one beat's.
// The silence of an outage is none of the link's.
func (d *Detector) learn(now time.Duration) {
	gap := now - d.sampled
	switch {
	case !d.sampling || d.state == api.StateDead:
	case gap < d.p.Interval*3/4:
		return
	default:
		d.history.add(d.p.Window, max(0, int((gap+d.p.Interval/2)/d.p.Interval)-1))
		d.dead = d.history.beats(Threshold, d.p.Dead, d.p.Late)
		d.suspect = d.history.beats(Threshold*float64(d.p.Suspect)/float64(d.p.Dead), d.p.Suspect, d.p.Late*d.p.Suspect/d.p.Dead)
	}
	d.sampled, d.sampling = now, true
}

// Phi is the suspicion: Threshold when the object is dead, in between minus the decimal logarithm of how likely so long a
// silence is by the link's history, while that makes the object dead at Dead beats missed or later and at Late or before.
func (d *Detector) Phi(now time.Duration) float64 {
	if now <= d.lastGood {
		return 0
	}
	return Threshold * (now - d.lastGood).Seconds() / (time.Duration(d.dead) * d.p.Interval).Seconds()
}

// Patience is how many beats missed in a row make the object dead, by the link's history.
func (d *Detector) Patience() int { return d.dead }

// State is api.StateUnknown, StateAlive, StateSuspect or StateDead.
func (d *Detector) State() string { return d.state }

// Since is when the state was entered.
func (d *Detector) Since() time.Duration { return d.since }

// Missed is how many answers in a row are missing.
func (d *Detector) Missed(now time.Duration) int {
	if now <= d.lastGood {
		return 0
	}
	return int((now - d.lastGood) / d.p.Interval)
}

// FirstMissed is when the first answer was due that did not come; false while the object is well.
func (d *Detector) FirstMissed() (time.Duration, bool) { return d.first, d.missing }

// fall notes the beginning of a loss.
func (d *Detector) fall(now time.Duration) {
	if d.missing {
		return
	}
	d.first, d.missing = d.lastGood+d.p.Interval, true
	if d.state != api.StateAlive {
		return
	}
	kept := d.falls[:0]
	for _, t := range d.falls {
		if now-t < d.p.FlapWindow {
			kept = append(kept, t)
		}
	}
	d.falls = append(kept, now)
	if len(d.falls) > maxDoublings+1 {
		d.falls = d.falls[1:]
	}
}

// needed is how many good ones in a row lead back to alive.
func (d *Detector) needed(now time.Duration) int {
	n := d.p.Suspect + 1
	if d.wasDead {
		n = d.p.Recover
	}
	recent := 0
	for _, t := range d.falls {
		if now-t < d.p.FlapWindow {
			recent++
		}
	}
	return n << min(max(recent-1, 0), maxDoublings)
}

func (d *Detector) alive(now time.Duration) bool {
	d.wasDead, d.missing, d.run = false, false, 0
	return d.enter(api.StateAlive, now)
}

func (d *Detector) enter(state string, now time.Duration) bool {
	d.state, d.since = state, now
	return true
}
