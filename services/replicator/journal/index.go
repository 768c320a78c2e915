package journal

import (
	"sort"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// frameRef is where a retained frame lies.
type frameRef struct {
	pos, size   int64
	number      uint64
	epoch       domain.Epoch
	first, last domain.LSN // last: that counts, after a cut
	commit      domain.LSN
	crc         uint32
	prevCRC     uint32
}

func refOf(h *header, pos int64) frameRef {
	return frameRef{pos: pos, size: h.size(), number: h.number, epoch: h.epoch, first: h.first, last: h.last(),
		commit: h.commit, crc: h.crc, prevCRC: h.prevCRC}
}

func (r frameRef) end() int64 { return r.pos + r.size }

// frameIndex is a queue of references in LSN order.
type frameIndex struct {
	refs []frameRef
	from int
}

func (x *frameIndex) len() int            { return len(x.refs) - x.from }
func (x *frameIndex) at(i int) frameRef   { return x.refs[x.from+i] }
func (x *frameIndex) ref(i int) *frameRef { return &x.refs[x.from+i] }

// push appends; it moves the queue down instead of growing when half of it is free.
func (x *frameIndex) push(r frameRef) {
	if len(x.refs) == cap(x.refs) && x.from > len(x.refs)/2 {
		x.refs = x.refs[:copy(x.refs, x.refs[x.from:])]
		x.from = 0
	}
	x.refs = append(x.refs, r)
}

func (x *frameIndex) drop(k int)     { x.from += k }
func (x *frameIndex) truncate(n int) { x.refs = x.refs[:x.from+n] }
func (x *frameIndex) clear()         { x.refs, x.from = x.refs[:0], 0 }

// endingBy is how many frames end at or before lsn.
func (x *frameIndex) endingBy(lsn domain.LSN) int {
	return sort.Search(x.len(), func(i int) bool { return x.at(i).last > lsn })
}
