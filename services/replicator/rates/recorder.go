package rates

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// How long each resolution is kept.
const (
	SecondsKept = 3600
	MinutesKept = 7 * 24 * 60
)

// Load is what was written in a stretch of time.
type Load struct {
	Writes uint64 // changes, as the journal numbers them: a command of more than 1 MiB is several
	Bytes  uint64 // their payload
	Frames uint64 // the frames they became: what crosses a link and fills a ring
}

func (l Load) plus(o Load) Load {
	return Load{l.Writes + o.Writes, l.Bytes + o.Bytes, l.Frames + o.Frames}
}

func (l Load) minus(o Load) Load {
	return Load{l.Writes - o.Writes, l.Bytes - o.Bytes, l.Frames - o.Frames}
}

// share is part i of n of a load; the parts of a load are all of it.
func (l Load) share(i, n uint64) Load {
	part := func(v uint64) uint64 { return v*(i+1)/n - v*i/n }
	return Load{part(l.Writes), part(l.Bytes), part(l.Frames)}
}

// Recorder records one group. Frame is for its committer; everything else is safe from any goroutine.
type Recorder struct {
	writes, bytes, frames atomic.Uint64
	sketch                atomic.Pointer[sketch] // of the minute under way

	mu      sync.Mutex // never held by Frame
	seconds ring
	minutes ring
	file    *os.File
	fault   error
	last    time.Time // of the sample before
	seen    Load      // counted up to then
	minute  int64     // that the sketch is of
	spare   *sketch
}

// Open goes on with what is recorded in a file, and makes it when there is none. Without a usable file the recorder works
// all the same, and Fault says why it will not outlive the process.
func Open(path string) *Recorder {
	r := &Recorder{seconds: newRing(1, SecondsKept), minutes: newRing(60, MinutesKept), spare: &sketch{}}
	r.sketch.Store(&sketch{})
	r.file, r.fault = openFile(path, &r.seconds, &r.minutes)
	return r
}

// Fault is why the record will not outlive the process, nil when it will.
func (r *Recorder) Fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// Frame counts one frame. One goroutine at a time calls it. It takes no lock and no memory.
func (r *Recorder) Frame(entries []journal.Entry, frameBytes int) {
	s := r.sketch.Load()
	var bytes, writes uint64
	for i := range entries {
		switch e := &entries[i]; e.Op {
		case journal.OpWrite:
			bytes += uint64(len(e.Data))
			s.touch(e.Volume, e.Off, e.Len)
			writes++
		case journal.OpZero, journal.OpUnmap:
			writes++
		}
	}
	r.writes.Add(writes)
	r.bytes.Add(bytes)
	r.frames.Add(uint64(frameBytes))
}

func (r *Recorder) counted() Load {
	return Load{Writes: r.writes.Load(), Bytes: r.bytes.Load(), Frames: r.frames.Load()}
}

// Run samples every second, just after it has passed, until ctx ends. What was written while it does not run is not
// recorded.
func (r *Recorder) Run(ctx context.Context, log *slog.Logger) {
	if err := r.Fault(); err != nil {
		log.Warn("the record of the write rate will not outlive this process", "error", err)
	}
	r.begin(time.Now())
	for {
		now := time.Now()
		t := time.NewTimer(now.Truncate(time.Second).Add(time.Second + 2*time.Millisecond).Sub(now))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		if err := r.sample(time.Now()); err != nil {
			log.Warn("the record of the write rate will not outlive this process", "error", err)
		}
	}
}

func (r *Recorder) begin(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.seen, r.minute = now, r.counted(), now.Unix()/60
}

// maxSpread is how many seconds one sample stands for at most: a process that stood still longer does not know when.
const maxSpread = 60

// sample moves what was counted since the sample before into the seconds that have passed, evenly. The error is told once.
func (r *Recorder) sample(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delta := r.counted().minus(r.seen)
	passed := now.Unix() - r.last.Unix()
	if passed == 0 {
		return nil // counted with the next
	}
	from := r.last.Unix()
	if passed < 0 || passed > maxSpread {
		from, passed = now.Unix()-1, 1 // the clock was set, or the process stood still
	}
	r.last, r.seen = now, r.seen.plus(delta)
	for i := range uint64(passed) {
		r.put(from+int64(i), delta.share(i, uint64(passed)))
	}
	r.turn(now.Unix() / 60)
	return r.save(from, passed)
}

// put adds what a second had. Under mu.
func (r *Recorder) put(at int64, l Load) {
	s := r.seconds.at(at)
	s.Load = s.plus(l)
	s.Seconds, s.Peak = 1, s.Frames
	m := r.minutes.at(at)
	m.Load = m.plus(l)
	m.Seconds = min(m.Seconds+1, 60)
	m.Peak = max(m.Peak, s.Peak)
}

// turn takes the sketch of a minute that has passed. Under mu.
func (r *Recorder) turn(minute int64) {
	if minute == r.minute {
		return
	}
	done := r.sketch.Swap(r.spare)
	if m := r.minutes.find(r.minute * 60); m != nil {
		m.Blocks, m.Unique = done.count()
	}
	done.reset()
	r.spare, r.minute = done, minute
}

// save puts the slots that a sample changed into the file. Under mu.
func (r *Recorder) save(from, n int64) error {
	if r.file == nil || r.fault != nil {
		return nil
	}
	for at := from; at < from+n; at++ {
		if r.fault = r.seconds.write(r.file, secondsOffset, at); r.fault != nil {
			return r.fault
		}
	}
	for at := (from - 60) / 60 * 60; at < from+n; at += 60 { // the minute before has its sketch now
		if r.fault = r.minutes.write(r.file, minutesOffset, at); r.fault != nil {
			return r.fault
		}
	}
	return nil
}

// Close gives the file back.
func (r *Recorder) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		_ = r.file.Close() // nothing is buffered
		r.file = nil
	}
}
