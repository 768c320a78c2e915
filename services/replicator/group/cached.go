package group

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// cacheBytes bounds what may be acknowledged ahead of the journal and of targets. A write beyond it is answered when it is
// durable, which holds its initiator back as a disk with a full cache does.
const cacheBytes = 16 << 20

// cache is the volatile write cache of a session whose group is of the class cached: what was acknowledged when it had its
// place in the group's order, and is in no volume yet. It is lost when the site is; what a SYNCHRONIZE CACHE or a write with
// FUA was answered for is not. Since an LSN is given before the answer, what remains is a prefix of the group's order all the
// same. The session's lock guards it.
type cache struct {
	on      bool               // declared to initiators
	strict  bool               // nothing is answered early any more: the policy became strict meanwhile
	used    int                // of cacheBytes
	pages   map[cachePage]int  // how many changes in flight touch a page
	busy    atomic.Int64       // len(pages), for readers, who need no lock when there are none
	readers []waitingForVolume // in the order of their LSNs
}

type cachePage struct {
	volume uint16
	page   int64
}

type waitingForVolume struct {
	upto domain.LSN
	c    chan struct{}
}

const cachePageBytes = 4096

// class is what the copy serves as.
func (s *store) class() domain.Durability {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Class
}

// chooseClass decides, durably, what the copy of a site serves as from the next epoch on. One that was strict when it served last,
// and after which no other site served, stays so whatever the policy became: its guests may run on, and they were told that their
// disks have no write cache.
func (s *store) chooseClass(site domain.SiteID) error {
	class := cmp.Or(s.policy().Durability, domain.DurabilityStrict)
	if l := s.lineage(); len(l) > 0 && l[len(l)-1].Site == site && s.class() == domain.DurabilityStrict {
		class = domain.DurabilityStrict
	}
	return s.remember(func(m *meta) { m.Class = class })
}

// goBy goes over to another class, as far as that may be while guests run; what changes, in words.
func (s *session) goBy(class domain.Durability) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	strict := cmp.Or(class, domain.DurabilityStrict) == domain.DurabilityStrict
	if !s.cache.on || s.cache.strict == strict {
		return ""
	}
	if s.cache.strict = strict; strict {
		return "every write is durable before it is answered"
	}
	return "writes are answered before they are durable again"
}

// class is how writes are answered now.
func (s *session) class() domain.Durability {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache.on && !s.cache.strict {
		return domain.DurabilityCached
	}
	return domain.DurabilityStrict
}

// early reports whether a command that was placed is answered now. Under mu.
func (s *session) early(o *op, b *batch) bool {
	if !s.cache.on || s.cache.strict || o.marker || o.cmd.FUA || o.cmd.Atomic || o.cmd.Op == target.OpCompareAndWrite ||
		o.cmd.Op != target.OpWrite && o.cmd.Len > pieceBytes {
		return false
	}
	n := max(int(o.at), cachePageBytes) // also of what takes no payload: it bounds their number
	if s.cache.used+n > cacheBytes {
		return false
	}
	s.cache.used += n
	b.early += n
	return true
}

// track says that a change is in flight. Long ones without payload are not answered early, and not tracked. Under mu.
func (c *cache) track(e *journal.Entry, by int) {
	if !c.on || e.Op == journal.OpMarker || e.Len > pieceBytes {
		return
	}
	for p := e.Off / cachePageBytes; p*cachePageBytes < e.Off+e.Len; p++ {
		k := cachePage{e.Volume, p}
		if n := c.pages[k] + by; n > 0 {
			c.pages[k] = n
		} else {
			delete(c.pages, k)
		}
	}
	c.busy.Store(int64(len(c.pages)))
}

// applied lets go of a frame that is in the volumes, and of the readers that waited for it. Under mu.
func (c *cache) applied(b *batch) {
	if !c.on {
		return
	}
	c.used -= b.early
	for i := range b.frame.Entries {
		c.track(&b.frame.Entries[i], -1)
	}
	n := 0
	for n < len(c.readers) && c.readers[n].upto <= b.frame.LastLSN {
		close(c.readers[n].c)
		n++
	}
	c.readers = c.readers[n:]
}

// behind is closed when the volume shows everything that was acknowledged in a range; nil when it does already.
func (s *session) behind(volume int, off, length int64) <-chan struct{} {
	// The cache first: who waits for it waits for everything placed so far, so also for what was answered ahead of the volumes. Of the
	// latter alone a page may have older changes than the newest that was answered.
	if c := &s.cache; c.busy.Load() > 0 {
		if shown := s.cachedAhead(volume, off, length); shown != nil {
			return shown
		}
	}
	if s.shownBehind.Load() > 0 {
		return s.answeredAhead(volume, off, length)
	}
	return nil
}

// cachedAhead is closed when the volume shows everything placed so far; nil when nothing of the cache is at a range.
func (s *session) cachedAhead(volume int, off, length int64) <-chan struct{} {
	c := &s.cache
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := off / cachePageBytes; p*cachePageBytes < off+length; p++ {
		if c.pages[cachePage{uint16(volume), p}] > 0 {
			w := waitingForVolume{s.next - 1, make(chan struct{})}
			c.readers = append(c.readers, w)
			return w.c
		}
	}
	return nil
}

// answeredAhead is closed when the volume shows the newest frame that was answered and is at a range; nil when it shows all of them.
func (s *session) answeredAhead(volume int, off, length int64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range slices.Backward(s.unapplied) {
		for i := range b.frame.Entries {
			if e := &b.frame.Entries[i]; touches(e, volume, off, length) {
				if b.shown == nil {
					b.shown = make(chan struct{})
				}
				return b.shown
			}
		}
	}
	return nil
}

// touches reports whether a change is at a range of a volume.
func touches(e *journal.Entry, volume int, off, length int64) bool {
	return e.Op != journal.OpMarker && e.Op != journal.OpFlush && int(e.Volume) == volume && e.Off < off+length && off < e.Off+e.Len
}

// nextBehind is the offset of the first page from off on, before off+length, that has a change in flight; off+length when
// none has.
func (s *session) nextBehind(volume int, off, length int64) int64 {
	c, next := &s.cache, off+length
	if c.busy.Load() == 0 && s.shownBehind.Load() == 0 {
		return next
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.unapplied {
		for i := range b.frame.Entries {
			if e := &b.frame.Entries[i]; touches(e, volume, off, next-off) {
				next = max(e.Off, off)
			}
		}
	}
	for k := range c.pages {
		if at := k.page * cachePageBytes; k.volume == uint16(volume) && at+cachePageBytes > off && at < next {
			next = max(at, off)
		}
	}
	return next
}

// flush answers when everything placed before it is durable, here and wherever it must be. Under mu; true: it is already.
func (s *session) flush(o *op) bool {
	b := s.writing
	switch {
	case s.open.builder.Len() > 0:
		b = s.open
	case b == nil && len(s.pending) > 0:
		b = s.pending[len(s.pending)-1]
	case b == nil:
		return true
	}
	b.ops = append(b.ops, o)
	return false
}

// keepPayload makes a frame's entries refer to the frame's own bytes instead of the initiators' buffers, which belong to them
// again once they were answered.
func (b *batch) keepPayload(encoded []byte) {
	for i := range b.frame.Entries {
		if e := &b.frame.Entries[i]; len(e.Data) > 0 {
			e.Data = b.builder.Payload(encoded, i)
		}
	}
}

// giveSpare takes a frame's builder back, once.
func (s *session) giveSpare(b *batch) {
	if b.builder != nil {
		s.g.cfg.Memory.take(b.builder)
	}
	b.builder = nil
}
