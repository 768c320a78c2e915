// Package qos limits what a volume does a second: operations and bytes, fairly between its sessions.
//
// A limit is a token bucket that holds a quarter of a second's worth. A command may begin while its buckets are above zero,
// and may leave them below: so one larger than the bucket passes, and is paid for by those behind it. What may not begin
// waits in its session's queue; of the sessions that wait, the one that has had the least goes first (start-time fair
// queueing; Goyal, Vin and Cheng 1996). One timer wakes the queues; no command has a goroutine of its own. Flushes are
// not counted.
package qos

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// burst is how much of a second an idle bucket saves up.
const burst = 0.25

// Limiter stands before a unit. It is made by New.
type Limiter struct {
	submit func(c *target.Command, done func(error))
	clock  func() time.Duration
	arm    func(in time.Duration) // calls drain after that time, in place of when it was to before; a test calls it itself
	on     atomic.Bool

	mu        sync.Mutex
	iops      bucket
	bandwidth bucket
	queues    map[uint64]*queue
	filled    time.Duration // when the buckets were filled last
	served    float64       // the start tag of what began last
	timer     *time.Timer
	draining  bool
}

// bucket is tokens that come at a rate; a rate of 0 is no limit.
type bucket struct{ rate, level float64 }

func (b *bucket) fill(seconds float64) { b.level = min(b.rate*burst, b.level+b.rate*seconds) }
func (b *bucket) open() bool           { return b.rate == 0 || b.level > 0 }
func (b *bucket) take(n float64) {
	if b.rate > 0 {
		b.level -= n
	}
}

// wait is how many seconds until the bucket opens.
func (b *bucket) wait() float64 {
	if b.open() {
		return 0
	}
	return -b.level/b.rate + 1e-6
}

// queue is one session's commands that wait. tag grows by what each of them costs.
type queue struct {
	waiting []command
	tag     float64
}

type command struct {
	c    *target.Command
	done func(error)
}

// New is a limiter without limits in front of submit. clock is a monotonic clock.
func New(submit func(*target.Command, func(error)), clock func() time.Duration) *Limiter {
	l := &Limiter{submit: submit, clock: clock, queues: map[uint64]*queue{}}
	l.arm = l.setTimer
	return l
}

// Set changes the limits, in operations and bytes a second; 0 is none. What waits goes on under the new ones.
func (l *Limiter) Set(iops, bandwidth int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refill()
	for b, rate := range map[*bucket]float64{&l.iops: float64(iops), &l.bandwidth: float64(bandwidth)} {
		if b.rate == 0 { // a limit begins with a full bucket
			b.level = rate * burst
		}
		b.rate = rate
		b.level = min(b.level, rate*burst)
	}
	l.on.Store(iops > 0 || bandwidth > 0)
	l.wake()
}

// Submit passes a command on, now or when the limits allow it. Without limits it costs one load.
func (l *Limiter) Submit(c *target.Command, done func(error)) {
	if !l.on.Load() || c.Op == target.OpFlush {
		l.submit(c, done)
		return
	}
	l.mu.Lock()
	l.refill()
	if len(l.queues) == 0 && !l.draining && l.open() {
		l.take(c)
		l.mu.Unlock()
		l.submit(c, done)
		return
	}
	q := l.queues[c.Session]
	if q == nil {
		q = &queue{tag: l.served}
		l.queues[c.Session] = q
	}
	q.waiting = append(q.waiting, command{c, done})
	l.wake()
	l.mu.Unlock()
}

func (l *Limiter) open() bool { return l.iops.open() && l.bandwidth.open() }

func (l *Limiter) take(c *target.Command) {
	l.iops.take(1)
	l.bandwidth.take(moved(c))
}

// moved is the bytes that count; zeroes and unmapped blocks move none.
func moved(c *target.Command) float64 { return float64(len(c.Data)) }

// refill gives the buckets what came since they were filled last. Call it under mu.
func (l *Limiter) refill() {
	now := l.clock()
	seconds := (now - l.filled).Seconds()
	l.filled = now
	l.iops.fill(seconds)
	l.bandwidth.fill(seconds)
}

// wake sets the timer for when the next command may begin. Call it under mu.
func (l *Limiter) wake() {
	if l.draining || len(l.queues) == 0 {
		return
	}
	l.arm(time.Duration(max(l.iops.wait(), l.bandwidth.wait()) * float64(time.Second)))
}

// setTimer is called under mu.
func (l *Limiter) setTimer(in time.Duration) {
	if l.timer == nil {
		l.timer = time.AfterFunc(in, l.drain)
		return
	}
	l.timer.Reset(in)
}

// drain begins what may begin.
func (l *Limiter) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return
	}
	l.draining = true
	for l.refill(); len(l.queues) > 0 && l.open(); l.refill() {
		next := l.next()
		l.take(next.c)
		l.mu.Unlock()
		l.submit(next.c, next.done)
		l.mu.Lock()
	}
	l.draining = false
	l.wake()
}

// next takes the first command of the session that has had the least. Call it under mu, while one waits.
func (l *Limiter) next() command {
	var session uint64
	var q *queue
	for s, other := range l.queues {
		if q == nil || other.tag < q.tag || other.tag == q.tag && s < session {
			session, q = s, other
		}
	}
	first := q.waiting[0]
	l.served = q.tag
	q.tag += l.cost(first.c)
	if len(q.waiting) == 1 {
		delete(l.queues, session)
	} else {
		q.waiting = slices.Delete(q.waiting, 0, 1)
	}
	return first
}

// cost is the share of a second that a command takes of the tighter limit.
func (l *Limiter) cost(c *target.Command) float64 {
	cost := 0.0
	if l.iops.rate > 0 {
		cost = 1 / l.iops.rate
	}
	if l.bandwidth.rate > 0 {
		cost = max(cost, moved(c)/l.bandwidth.rate)
	}
	return cost
}
