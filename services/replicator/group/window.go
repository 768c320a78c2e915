package group

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// window keeps the newest frames in memory for the senders, so that a target that keeps up costs no read of the ring.
type window struct {
	memory *Memory

	mu     sync.Mutex
	frames []windowFrame
	bytes  int
	kept   domain.LSN // last durable

	total   uint64     // payload and header bytes of every frame so far
	payload uint64     // of these, payload
	marks   []mark     // both at some LSNs, oldest first
	first   domain.LSN // of the first frame so far
	began   time.Time
}

type mark struct {
	lsn     domain.LSN
	total   uint64
	payload uint64
}

const marksKept = 4096

type windowFrame struct {
	first, last domain.LSN
	raw         []byte
	payload     int       // bytes of it that change a volume
	at          time.Time // when it was cut
}

const windowBytes = 32 << 20 // at most; see Memory

func newWindow(m *Memory) *window { return &window{began: time.Now(), memory: m} }

// open takes the window's share of the memory, until close.
func (w *window) open() { w.memory.serving.Add(1) }

// close gives back what the window has.
func (w *window) close() {
	w.skip()
	w.memory.serving.Add(-1)
}

func (w *window) push(f windowFrame) {
	most := w.memory.window()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == 0 {
		w.first = f.first
	}
	w.frames = append(w.frames, f)
	w.bytes += len(f.raw)
	w.total += uint64(len(f.raw))
	w.payload += uint64(f.payload)
	if n := len(w.marks); n == 0 || w.total-w.marks[n-1].total >= 64<<10 {
		w.marks = append(w.marks, mark{f.last, w.total, w.payload})
		if len(w.marks) > marksKept {
			w.marks = append(w.marks[:0], w.marks[marksKept/2:]...)
		}
	}
	for w.bytes > most && len(w.frames) > 1 {
		w.bytes -= len(w.frames[0].raw)
		w.frames[0] = windowFrame{}
		w.frames = w.frames[1:]
	}
}

// skip says that a frame is not kept, because nobody is to have it: whoever comes later reads the ring.
func (w *window) skip() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames, w.bytes = nil, 0
}

// durable says that the journal holds every frame up to lsn.
func (w *window) durable(lsn domain.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = lsn
}

// at finds the frame that begins at lsn. early lets it be one that the journal does not hold durably yet. older is set
// when the window no longer reaches back to lsn, or begins elsewhere.
func (w *window) at(lsn domain.LSN, early bool) (f windowFrame, ok, older bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.frames) == 0 || lsn < w.frames[0].first {
		return windowFrame{}, false, true
	}
	lo, hi := 0, len(w.frames)
	for lo < hi {
		if mid := (lo + hi) / 2; w.frames[mid].last < lsn {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(w.frames) || !early && w.frames[lo].last > w.kept {
		return windowFrame{}, false, false
	}
	return w.frames[lo], true, false
}

// since is when the first frame that follows lsn was cut. For one that is no longer in memory it is heard, the date of the
// frame that ends with lsn, or when that is not known the beginning of the window.
func (w *window) since(lsn domain.LSN, heard time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.frames, lsn+1, func(f windowFrame, lsn domain.LSN) int { return cmp.Compare(f.last, lsn) })
	switch {
	case i < len(w.frames) && (i > 0 || w.frames[0].first <= lsn+1 || heard.IsZero() && w.complete()):
		return w.frames[i].at
	case !heard.IsZero():
		return heard
	}
	return w.began
}

// complete reports whether the window still has every frame it was ever given. Under mu.
func (w *window) complete() bool { return w.total == uint64(w.bytes) }

// written is how many bytes of frames there were so far.
func (w *window) written() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// after is about how many bytes of frames follow lsn.
func (w *window) after(lsn domain.LSN) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.marks, lsn, func(m mark, lsn domain.LSN) int { return cmp.Compare(m.lsn, lsn+1) })
	if i == 0 {
		return w.total
	}
	return w.total - w.marks[i-1].total
}

// payloadBetween is the payload of the frames that follow lsn and begin at or before head. Beyond memory it is rounded up to a
// mark. atLeast is set when lsn lies before the window's beginning: what was before that is not known.
func (w *window) payloadBetween(lsn, head domain.LSN) (bytes uint64, atLeast bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	beyond := uint64(0) // not acknowledged yet
	kept := uint64(0)
	within := len(w.frames) > 0 && w.frames[0].first <= lsn+1
	for _, f := range w.frames {
		switch {
		case f.first > head:
			beyond += uint64(f.payload)
		case f.last > lsn:
			kept += uint64(f.payload)
		}
	}
	if within {
		return kept, false
	}
	i, _ := slices.BinarySearchFunc(w.marks, lsn, func(m mark, lsn domain.LSN) int { return cmp.Compare(m.lsn, lsn+1) })
	if i == 0 {
		return w.payload - beyond, w.first == 0 || w.first > lsn+1
	}
	return w.payload - beyond - w.marks[i-1].payload, false
}
