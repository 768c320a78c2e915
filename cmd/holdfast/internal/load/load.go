package main

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// blockBytes is what is told of a disk: whether a block of it was written.
const blockBytes = 4096

// options say what is written.
type options struct {
	size, depth int
	writes      int64         // 0: no end
	lasts       time.Duration // 0: no end
	rate        int64         // bytes a second; 0: as fast as answers come
	random      bool
	guest       bool          // four threads write 4 to 32 KiB each, mostly into a hot eighth of the disks, as file systems and databases do
	pause       time.Duration // of a guest's thread, after each write
}

// guestThreads is how many writes a guest has under way.
const guestThreads = 4

// load is threads that write to disks, each one write after the other. No two writes have a block in common that holds the same, so what
// was written differs from whatever was there.
type load struct {
	o     options
	disks []*initiator.Session
	mark  uint64 // of this run, in every block
	next  atomic.Int64

	over chan struct{} // closed with the first error, when there is nothing left to write, or by end
	once sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex
	err     error
	stats   stats
	began   time.Time            // of the slice
	written []map[int64]struct{} // by disk: blocks, since they were forgotten
}

func newLoad(o options, disks []*initiator.Session) *load {
	l := &load{o: o, disks: disks, mark: rand.Uint64(), over: make(chan struct{})}
	if o.guest {
		l.o.depth = guestThreads
	}
	l.forget()
	return l
}

func (l *load) forget() {
	l.written = make([]map[int64]struct{}, len(l.disks))
	for i := range l.written {
		l.written[i] = map[int64]struct{}{}
	}
}

func (l *load) start(ctx context.Context) {
	l.began = time.Now()
	if l.o.lasts > 0 {
		time.AfterFunc(l.o.lasts, l.end)
	}
	for n := range l.o.depth {
		l.wg.Go(func() {
			if err := l.thread(ctx, n); err != nil {
				l.mu.Lock()
				if l.err == nil {
					l.err = err
				}
				l.mu.Unlock()
				l.end()
			}
		})
	}
}

// end lets every thread stop after the write that it is at.
func (l *load) end() { l.once.Do(func() { close(l.over) }) }

// wait returns when no thread writes any more, with the first error of one.
func (l *load) wait() error {
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// thread writes until it is told to stop, or all writes have begun.
func (l *load) thread(ctx context.Context, n int) error {
	rng := rand.New(rand.NewPCG(l.mark, uint64(n)))
	var gap time.Duration // between the beginnings of two writes of this thread
	if l.o.rate > 0 {
		gap = time.Duration(float64(l.o.size*l.o.depth) / float64(l.o.rate) * float64(time.Second))
	}
	due := time.Now()
	for {
		number := l.next.Add(1)
		if l.o.writes > 0 && number > l.o.writes {
			return nil
		}
		disk, off, size := l.place(rng, number)
		data := l.content(size, number)
		if due = due.Add(gap); !l.pause(max(time.Until(due), l.o.pause)) {
			return nil
		}
		at := time.Now()
		if err := l.disks[disk].Write(ctx, data, off, false); err != nil {
			return err
		}
		l.note(disk, off, size, time.Since(at))
	}
}

// pause waits, and reports whether to go on.
func (l *load) pause(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-l.over:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.over:
		return false
	case <-t.C:
		return true
	}
}

// place is where a write goes: a disk, an offset and a length, in bytes.
func (l *load) place(rng *rand.Rand, number int64) (disk int, off int64, size int) {
	if l.o.guest {
		disk, size = rng.IntN(len(l.disks)), blockBytes<<rng.IntN(4)
		span := l.disks[disk].Capacity()
		if rng.IntN(10) > 0 {
			span /= 8
		}
		return disk, rng.Int64N((span-int64(size))/blockBytes) * blockBytes, size
	}
	disk, size = int(number%int64(len(l.disks))), l.o.size
	places := l.disks[disk].Capacity() / int64(size)
	if l.o.random {
		return disk, rng.Int64N(places) * int64(size), size
	}
	return disk, (number / int64(len(l.disks))) % places * int64(size), size
}

// content fills a write with what no other one has.
func (l *load) content(size int, number int64) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint64(b, l.mark)
	binary.LittleEndian.PutUint64(b[8:], uint64(number))
	for n := 16; n < size; n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}

func (l *load) note(disk int, off int64, size int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.note(size, took)
	for b := off / blockBytes; b < (off+int64(size))/blockBytes; b++ {
		l.written[disk][b] = struct{}{}
	}
}

// figures are those since the last slice; from now on another one counts, and blocks are as if never written, when that is asked for.
func (l *load) figures(slice, forget bool) figures {
	l.mu.Lock()
	s, began := l.stats, l.began
	blocks := 0
	for _, w := range l.written {
		blocks += len(w)
	}
	if slice {
		l.stats, l.began = stats{}, time.Now()
	}
	if forget {
		l.forget()
	}
	l.mu.Unlock()
	f := s.figures(time.Since(began))
	f.Differ = int64(blocks) * blockBytes
	return f
}

// stats are times of writes.
type stats struct {
	took  []time.Duration
	bytes int64
}

func (s *stats) note(bytes int, took time.Duration) {
	s.took = append(s.took, took)
	s.bytes += int64(bytes)
}

// figures is what is printed.
type figures struct {
	Writes int     `json:"writes"`
	Bytes  int64   `json:"bytes"`
	Rate   float64 `json:"rate"` // writes a second
	Mean   float64 `json:"mean_us"`
	P50    float64 `json:"p50_us"`
	P99    float64 `json:"p99_us"`
	Max    float64 `json:"max_us"`
	Differ int64   `json:"differ_bytes"` // of blocks that were written at least once since the last forget
}

// figures are those of a time.
func (s stats) figures(lasted time.Duration) figures {
	f := figures{Writes: len(s.took), Bytes: s.bytes}
	if lasted > 0 {
		f.Rate = round(float64(f.Writes) / lasted.Seconds())
	}
	if f.Writes == 0 {
		return f
	}
	took := slices.Sorted(slices.Values(s.took))
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	us := func(d time.Duration) float64 { return round(float64(d) / float64(time.Microsecond)) }
	f.Mean, f.P50, f.P99, f.Max = us(sum/time.Duration(f.Writes)), us(took[f.Writes/2]), us(took[f.Writes*99/100]), us(took[f.Writes-1])
	return f
}

// round keeps one decimal.
func round(x float64) float64 { return math.Round(x*10) / 10 }
