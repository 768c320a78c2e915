package journal

import (
	"bytes"
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// step does one operation. It leaves in o.then the state that it asks for, unless it was acknowledged within.
func (o *oracle) step() error {
	if o.now.epoch == 0 || o.now.sealed || o.m.raiseFirst && o.fresh {
		return o.raise()
	}
	switch p := o.rng.IntN(100); {
	case p < 60:
		return o.append()
	case p < 75:
		return o.checkpoint()
	case p < 80:
		return o.raise()
	case p < 85:
		return o.truncate()
	case p < 88:
		return o.reset()
	case p < 91:
		return o.setMeta()
	case p < 96:
		return o.readBack()
	case o.target && p < 98:
		o.target = false // promoted: the whole tail counts
		return o.applyTail()
	default:
		return o.reopen()
	}
}

// ops makes the changes of the next frame. Often their payload is exactly that of the frame before, elsewhere: then
// the header of a lost frame would fit.
func (o *oracle) ops() []change {
	if len(o.lastOps) > 0 && (o.same || o.rng.IntN(2) == 0) {
		out := make([]change, len(o.lastOps))
		for i, c := range o.lastOps {
			if c.op == OpWrite {
				c.off = o.place(c.len)
				c.vol = uint16(o.rng.IntN(oracleVolumes))
			}
			out[i] = c
		}
		return out
	}
	n := 1 + o.rng.IntN(4)
	if o.rng.IntN(40) == 0 {
		n = 130 // spills over the first header page
	}
	out := make([]change, n)
	for i := range out {
		c := change{vol: uint16(o.rng.IntN(oracleVolumes)), op: OpWrite, fill: byte(1 + o.rng.IntN(3))}
		switch o.rng.IntN(12) {
		case 0:
			c.op = OpZero
		case 1:
			c.op = OpUnmap
		case 2:
			c.op, c.fill = OpFlush, 0
		case 3:
			c.op, c.fill, c.off = OpMarker, 0, int64(o.rng.IntN(100))
		}
		if c.op != OpFlush && c.op != OpMarker {
			c.len = []int64{512, 512, 1024, 4096, 4096, 6144}[o.rng.IntN(6)]
			if n > 100 {
				c.len = 512
			}
			c.off = o.place(c.len)
		}
		if c.op != OpWrite {
			c.fill = 0
		}
		out[i] = c
	}
	return out
}

func (o *oracle) place(length int64) int64 {
	return int64(o.rng.IntN(int((oracleVolumeSize-length)/512)+1)) * 512
}

func (o *oracle) append() error {
	ops := o.ops()
	next := o.j.Next()
	number := next.Number
	if number == 0 {
		number = 1 + uint64(o.rng.IntN(50))
	}
	o.b.Reset("erp", next.Epoch, number, next.FirstLSN)
	for _, c := range ops {
		if !o.b.Add(c.vol, c.op, c.off, c.len, c.data()) {
			return wrong("builder refused %+v", c)
		}
	}
	if o.target && o.rng.IntN(2) == 0 {
		o.commit = o.commit + domain.LSN(o.rng.IntN(int(max(o.now.last(), o.commit)-o.commit)+1))
	} else {
		o.commit = max(o.commit, o.now.last())
	}
	o.clock = o.clock.Add(time.Duration(o.rng.IntN(2)) * time.Millisecond)
	encoded := o.b.Finish(o.commit, next.PrevHeaderCRC, o.clock)
	o.logf("  append frame %d, LSN %d, %d ops, %d bytes, commit %d", number, next.FirstLSN, len(ops), len(encoded), o.commit)
	if o.m.volumeFirst {
		o.scribble(ops)
	}
	o.then, o.lastOps = o.now.append(ops), ops
	before := o.j.head % o.j.ring.size
	if o.rng.IntN(4) == 0 {
		encoded = append(make([]byte, 0, len(encoded)+1), encoded...) // maybe not aligned
	}
	err := o.j.Append(encoded)
	if errors.Is(err, ErrFull) {
		o.then = nil
		return o.drain(int64(len(encoded)))
	}
	if err != nil {
		return err
	}
	o.stats.frames.Add(1)
	if o.j.head%o.j.ring.size < before {
		o.stats.wraps.Add(1)
	}
	f, err := Decode(encoded)
	if err != nil {
		return wrong("decode what was appended: %v", err)
	}
	return o.apply(f)
}

// scribble is what the mutant does: volumes first.
func (o *oracle) scribble(ops []change) {
	for _, c := range ops {
		if c.op == OpWrite {
			_, _ = o.volumes[c.vol].WriteAt(c.data(), c.off)
		}
	}
}

// apply does what a primary or a target does with a durable frame. It has been acknowledged by then.
func (o *oracle) apply(f *Frame) error {
	o.now, o.then = o.then, nil
	if !o.target {
		return o.applier.Apply(f, f.LastLSN)
	}
	return o.applyUpTo(f.CommitLSN)
}

func (o *oracle) applyTail() error { return o.applyUpTo(o.now.last()) }

// applyUpTo reads what is to be applied back from the journal, as a target does that has fallen behind.
func (o *oracle) applyUpTo(upto domain.LSN) error {
	for o.applier.Applied() < upto {
		frames, err := o.j.Read(o.applier.Applied()+1, 16<<10)
		if err != nil {
			return err
		}
		for _, b := range frames {
			f, err := Decode(b)
			if err != nil {
				return wrong("decode what was read back: %v", err)
			}
			if err := o.applier.Apply(f, upto); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain makes room when the ring is full; a target whose commit LSN holds the tail back is promoted for it.
func (o *oracle) drain(need int64) error {
	o.logf("  full, need %d", need)
	o.target = false
	if err := o.applyTail(); err != nil {
		return err
	}
	if _, err := o.applier.Checkpoint(o.now.last()); err != nil {
		return err
	}
	if st := o.j.State(); st.LastLSN != st.ReleasedLSN {
		return wrong("full, and not empty after a checkpoint: %+v", st)
	}
	return nil
}

func (o *oracle) checkpoint() error {
	limit := o.now.last()
	if o.rng.IntN(4) == 0 {
		limit -= min(limit, domain.LSN(o.rng.IntN(6))) // a target has not got everything
	}
	o.logf("  checkpoint at %d, limit %d", o.applier.Applied(), limit)
	_, err := o.applier.Checkpoint(limit)
	return err
}

func (o *oracle) site() domain.SiteID { return domain.SiteID([]string{"a", "b"}[o.rng.IntN(2)]) }

func (o *oracle) nextEpoch() domain.Epoch {
	o.counter++
	return domain.NewEpoch(0, o.counter, 1)
}

func (o *oracle) raise() error {
	epoch, site := o.nextEpoch(), o.site()
	o.stats.raises.Add(1)
	o.logf("  raise to %s at LSN %d", epoch, o.now.last()+1)
	o.then, o.fresh = o.now.raise(epoch, site), false
	return o.j.RaiseEpoch(epoch, site, o.now.last()+1)
}

func (o *oracle) truncate() error {
	floor := max(o.applier.Applied(), o.j.State().ReleasedLSN, o.now.base, o.applied, min(o.commit, o.now.last()))
	if floor >= o.now.last() {
		return nil
	}
	after := floor + domain.LSN(o.rng.IntN(int(o.now.last()-floor)))
	o.stats.truncates.Add(1)
	o.logf("  truncate after %d of %d", after, o.now.last())
	o.then = o.now.truncate(after)
	return o.j.Truncate(after)
}

// reset takes the volumes' present state, flushed, for the state at some LSN, as after a resync.
func (o *oracle) reset() error {
	for _, v := range o.volumes {
		if err := v.Sync(); err != nil {
			return err
		}
	}
	epoch, site := o.now.epoch, o.site()
	if o.rng.IntN(2) == 0 {
		epoch = o.nextEpoch()
	}
	last := o.now.last() + domain.LSN(o.rng.IntN(20))
	if o.rng.IntN(2) == 0 {
		last = domain.LSN(o.rng.IntN(int(last) + 1)) // back: the ring holds frames beyond it
	}
	o.stats.resets.Add(1)
	o.logf("  reset to %d, epoch %s", last, epoch)
	o.then = o.now.reset(last, o.now.at(o.applier.Applied()), epoch, site)
	if err := o.j.Reset(last, epoch, o.then.lineage); err != nil {
		return err
	}
	o.start(o.j)
	o.applied, o.commit = last, last
	return nil
}

func (o *oracle) setMeta() error {
	o.then = o.now.clone()
	o.then.meta = byte(1 + o.rng.IntN(250))
	return o.j.SetMeta(bytes.Repeat([]byte{o.then.meta}, int(o.then.meta)*8))
}

// readBack holds Read against the model.
func (o *oracle) readBack() error {
	st := o.j.State()
	if st.TailLSN > st.LastLSN {
		return nil
	}
	from := st.TailLSN + domain.LSN(o.rng.IntN(int(st.LastLSN-st.TailLSN)+1))
	frames, err := o.j.Read(from, 1+o.rng.IntN(32<<10))
	if err != nil || len(frames) == 0 {
		return wrong("read from %d: %d frames, %v", from, len(frames), err)
	}
	for i, b := range frames {
		f, err := Decode(b)
		if err != nil || i == 0 && (f.FirstLSN > from || f.LastLSN < from) {
			return wrong("read from %d: %v", from, err)
		}
		for k, e := range f.Entries {
			if lsn := f.FirstLSN + domain.LSN(k); lsn > o.now.last() || !o.now.ops[lsn-o.now.base-1].equal(e) {
				return wrong("read LSN %d: %s of %d at %d", lsn, e.Op, e.Len, e.Off)
			}
		}
	}
	return nil
}
