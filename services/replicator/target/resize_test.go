package target

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// growingUnit is a unit whose size may be changed.
type growingUnit struct {
	*memUnit
	size atomic.Int64
	told atomic.Pointer[func()]
}

func (u *growingUnit) Info() UnitInfo {
	i := u.info
	i.SizeBytes = u.size.Load()
	return i
}

func (u *growingUnit) OnResize(told func()) {
	if told == nil {
		u.told.Store(nil)
		return
	}
	u.told.Store(&told)
}

func (u *growingUnit) grow(size int64) {
	u.size.Store(size)
	if f := u.told.Load(); f != nil {
		(*f)()
	}
}

func TestEverySessionIsToldOnceThatTheUnitGrew(t *testing.T) {
	b := newBench(t, Config{}, nil)
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		t.Fatal(err)
	}
	u := &growingUnit{memUnit: b.unit}
	u.size.Store(1 << 20)
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: u}, nil); err != nil {
		t.Fatal(err)
	}
	one, two := b.login(), b.dial()
	two.isid = 1
	if s := two.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	end := uint64(1 << 20 / BlockSize)
	one.do(iscsi.Read16CDB(end, 1), 512).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCLBAOutOfRange)
	u.grow(2 << 20)
	for _, c := range []*client{one, two} {
		c.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCCapacityChanged)
		r := c.do(iscsi.ReadCapacity16CDB(32), 32)
		if got := binary.BigEndian.Uint64(r.data); got != 2*end-1 {
			t.Errorf("last block %d, want %d", got, 2*end-1)
		}
		c.do(iscsi.Read16CDB(end, 1), 512).want(t, iscsi.StatusGood)
	}
	u.grow(2 << 20) // the same size is nothing to tell
	one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		t.Fatal(err)
	}
	if u.told.Load() != nil {
		t.Error("the unit still calls a target that is removed")
	}
}
