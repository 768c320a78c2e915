package transport

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Link is the way to another site, of a rate that may change with the time of day. Whoever sends over it has a Flow. While more is
// to be sent than it takes, flows share it by weight: each message in turn goes to the flow that has had the least for its weight
// (start-time fair queuing; Goyal, Vin, Cheng, 1996). What a flow leaves unused the others have; it saves nothing up. Safe for
// concurrent use. The nil one has no limit, and so has a rate of 0.
type Link struct {
	limit domain.Transport
	pacer Pacer

	mu      sync.Mutex
	waiting turns
	now     float64 // virtual: the start of the turn that went last, in bytes a weight of 1
	asked   uint64
	timer   *time.Timer
	sent    uint64
}

// NewLink makes a link of the rate and schedule of a transport; nil when it has neither.
func NewLink(t domain.Transport) *Link {
	if t.RateLimit == 0 && len(t.Schedule) == 0 {
		return nil
	}
	return &Link{limit: t}
}

// Flow is one sender's part of a link. The zero value, and one of a nil link, is not held back.
type Flow struct {
	link *Link
	// Under link.mu: when what the flow was granted so far is over, in virtual time.
	end float64
}

// Flow gives a part of the link to a sender.
func (l *Link) Flow() *Flow { return &Flow{link: l} }

// Turn is a message's turn to be sent. Nil is one that has come.
type Turn struct {
	link  *Link
	flow  *Flow
	cost  float64 // of its flow's time
	start float64
	order uint64 // of asking, among equals
	bytes int
	place int // in waiting; -1: it has come, or is not wanted any more
	come  chan struct{}
}

// Ask queues a message of so many bytes, of a flow that has a weight of 1 or more now. It counts as sent when its turn comes.
func (f *Flow) Ask(bytes, weight int) *Turn {
	l := f.link
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &Turn{link: l, flow: f, cost: float64(bytes) / float64(max(weight, 1)), start: max(l.now, f.end), order: l.asked, bytes: bytes, come: make(chan struct{})}
	f.end = t.start + t.cost
	l.asked++
	heap.Push(&l.waiting, t)
	l.grant()
	return t
}

// Charge counts bytes that are sent whatever the link takes: the others wait for them.
func (f *Flow) Charge(bytes int) {
	l := f.link
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	l.pacer.Sent(at, l.limit.Rate(at), bytes)
	l.sent += uint64(bytes)
}

// Sent is how many bytes went over the link so far.
func (l *Link) Sent() uint64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// Come is closed when the turn has come.
func (t *Turn) Come() <-chan struct{} {
	if t == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return t.come
}

// Leave gives a turn up that has not come. One that has, or nil, is nothing to give up.
func (t *Turn) Leave() {
	if t == nil {
		return
	}
	t.link.mu.Lock()
	defer t.link.mu.Unlock()
	if t.place >= 0 {
		heap.Remove(&t.link.waiting, t.place)
		t.flow.end -= t.cost // what was not sent is not paid for
	}
}

// Take waits for its turn to send so many bytes, or for ctx to end.
func (f *Flow) Take(ctx context.Context, bytes, weight int) error {
	t := f.Ask(bytes, weight)
	select {
	case <-t.Come():
		return ctx.Err()
	case <-ctx.Done():
		t.Leave()
		return ctx.Err()
	}
}

// grant lets turns come while the link is free, and looks again when it will be. Under mu.
func (l *Link) grant() {
	for len(l.waiting) > 0 {
		at := time.Now()
		if wait := l.pacer.claim(at, l.limit.Rate(at), l.waiting[0].bytes); wait > 0 {
			l.later(min(wait, maxNap)) // no longer: the rate changes with the time of day
			return
		}
		t := heap.Pop(&l.waiting).(*Turn)
		l.now = t.start
		l.sent += uint64(t.bytes)
		close(t.come)
	}
}

func (l *Link) later(wait time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.grant()
	})
}

// turns is a heap of those that have not come, by their start.
type turns []*Turn

// Len implements heap.Interface.
func (w turns) Len() int { return len(w) }

// Less implements heap.Interface.
func (w turns) Less(i, j int) bool {
	return w[i].start < w[j].start || w[i].start == w[j].start && w[i].order < w[j].order
}

// Swap implements heap.Interface.
func (w turns) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].place, w[j].place = i, j
}

// Push implements heap.Interface.
func (w *turns) Push(x any) {
	t := x.(*Turn)
	t.place = len(*w)
	*w = append(*w, t)
}

// Pop implements heap.Interface.
func (w *turns) Pop() any {
	last := len(*w) - 1
	t := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	t.place = -1
	return t
}

// Weight is a group's share of a link by its tier: 4 for tier 1, 2 for tier 2, 1 for every other.
func Weight(tier int) int {
	switch tier {
	case 1:
		return 4
	case 2:
		return 2
	}
	return 1
}

// Bound is a rate for all that take from it. The nil one bounds nothing.
type Bound struct {
	rate  domain.Transport
	pacer Pacer
}

// NewBound makes a bound of so many bytes a second; 0 gives none.
func NewBound(bytesPerSecond int64) *Bound {
	if bytesPerSecond <= 0 {
		return nil
	}
	return &Bound{rate: domain.Transport{RateLimit: domain.Rate(bytesPerSecond)}}
}

// Take returns when so many bytes may go, or with ctx's error.
func (b *Bound) Take(ctx context.Context, bytes int) error {
	if b == nil {
		return ctx.Err()
	}
	return b.pacer.Take(ctx, b.rate.Rate, bytes)
}
