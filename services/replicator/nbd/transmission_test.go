package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestReadsAndWritesInBothKindsOfReplies(t *testing.T) {
	b := newBench(t, Config{})
	for _, structured := range []bool{false, true} {
		c := b.open(structured)
		for _, n := range []int{512, 4096, 8192, 128 << 10, 300 << 10, 9 << 20} {
			want := pattern(byte(n>>9), n)
			if a := c.do(cmdWrite, 0, 1024, uint32(n), want).want(t, 0); a.structured {
				t.Error("a write needs no structured reply")
			}
			a := c.do(cmdRead, 0, 1024, uint32(n), nil).want(t, 0)
			if a.structured != structured || !bytes.Equal(a.data, want) {
				t.Errorf("structured %v, %d bytes: wrong answer", structured, n)
			}
			if structured && !bytes.Equal(c.do(cmdRead, flagDF|flagFUA, 1024, uint32(n), nil).want(t, 0).data, want) {
				t.Error("wrong data in one piece")
			}
		}
		if a := c.do(cmdRead, 0, 0, 0, nil).want(t, 0); a.structured != structured || len(a.data) != 0 {
			t.Error("an empty read is answered otherwise")
		}
		c.do(cmdWrite, 0, 0, 0, nil).want(t, 0)
		c.do(cmdWriteZeroes, 0, 16<<20, 0, nil).want(t, 0)
	}
}

func TestWhatIsWrongWithARequestIsToldAndTheStreamStaysInStep(t *testing.T) {
	b := newBench(t, Config{})
	const end = 16 << 20
	for _, structured := range []bool{false, true} {
		c := b.open(structured)
		df := errInval
		if structured {
			df = 0
		}
		for _, r := range []struct {
			name       string
			typ, flags uint16
			off        uint64
			n          uint32
			want       errno
		}{
			{"read beyond the end", cmdRead, 0, end - 512, 1024, errInval},
			{"read far beyond", cmdRead, 0, 1<<64 - 512, 1024, errInval},
			{"write beyond the end", cmdWrite, 0, end - 512, 1024, errNoSpc},
			{"write far beyond", cmdWrite, 0, 1<<64 - 512, 512, errNoSpc},
			{"zeroes beyond the end", cmdWriteZeroes, 0, end, 512, errNoSpc},
			{"trim beyond the end", cmdTrim, 0, end, 512, errInval},
			{"cache beyond the end", cmdCache, 0, end, 512, errInval},
			{"status beyond the end", cmdBlockStatus, 0, end, 512, errInval},
			{"empty status", cmdBlockStatus, 0, 0, 0, errInval},
			{"unaligned read", cmdRead, 0, 1, 512, errInval},
			{"unaligned write", cmdWrite, 0, 0, 100, errInval},
			{"long read", cmdRead, 0, 0, maxPayload + 512, errInval},
			{"don't fragment", cmdRead, flagDF, 0, 512, df},
			{"flag of another request", cmdWrite, flagNoHole, 0, 512, errInval},
			{"unknown flag", cmdRead, 1 << 9, 0, 512, errInval},
			{"fast zero that is not offered", cmdWriteZeroes, flagFastZero, 0, 512, errInval},
			{"unknown request", 8, 0, 0, 512, errInval},
			{"another", 0xffff, 0, 0, 0, errInval},
			{"all is well", cmdRead, 0, 0, 512, 0},
		} {
			var data []byte
			if r.typ == cmdWrite {
				data = make([]byte, r.n)
			}
			if a := c.do(r.typ, r.flags, r.off, r.n, data); a.err != r.want || a.structured != structured {
				t.Errorf("%s, structured %v: error %d (%s), want %d", r.name, structured, a.err, a.why, r.want)
			}
		}
	}
	for _, u := range b.unit.asked() {
		if u.Op != target.OpRead {
			t.Errorf("the unit was asked to %v", u.Op)
		}
	}
}

func TestReadOnlyAndThickUnitsRefuse(t *testing.T) {
	b := newBench(t, Config{})
	b.unit.info.ReadOnly = true
	c := b.open(true)
	for _, typ := range []uint16{cmdTrim, cmdWriteZeroes} {
		c.do(typ, 0, 0, 512, nil).want(t, errPerm)
	}
	c.do(cmdWrite, 0, 0, 512, make([]byte, 512)).want(t, errPerm)
	c.do(cmdRead, 0, 0, 512, nil).want(t, 0)
	if err := b.srv.RemoveExport(testExport); err != nil {
		t.Fatal(err)
	}
	if err := b.srv.AddExport(testExport, allocated{newMemUnit(8192)}); err != nil {
		t.Fatal(err)
	}
	c = b.open(false)
	c.do(cmdTrim, 0, 0, 512, nil).want(t, errInval)
	c.do(cmdWriteZeroes, 0, 0, 512, nil).want(t, 0)
}

func TestErrorsOfTheUnitAreTold(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(true)
	for err, want := range map[error]errno{target.ErrReadOnly: errPerm, target.ErrNoSpace: errNoSpc, target.ErrMedium: errIO, errors.New("any other"): errIO} {
		b.unit.set(func(u *memUnit) { u.fail = func(*target.Command) error { return fmt.Errorf("wrapped: %w", err) } })
		c.do(cmdWrite, 0, 0, 512, make([]byte, 512)).want(t, want)
		if a := c.do(cmdRead, 0, 0, 512, nil).want(t, want); strings.Contains(a.why, "wrapped") {
			t.Error("the client hears of the server's innards")
		}
		c.do(cmdBlockStatus, 0, 0, 512, nil).want(t, want)
	}
	b.unit.set(func(u *memUnit) { u.fail = nil })
	c.do(cmdRead, 0, 0, 512, nil).want(t, 0)
}

func TestRequestsAskTheUnitForWhatTheyMean(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(false)
	for _, r := range []struct {
		name       string
		typ, flags uint16
		want       target.Command
	}{
		{"write", cmdWrite, 0, target.Command{Op: target.OpWrite, Off: 512, Len: 1024}},
		{"write through", cmdWrite, flagFUA, target.Command{Op: target.OpWrite, Off: 512, Len: 1024, FUA: true}},
		{"trim", cmdTrim, 0, target.Command{Op: target.OpUnmap, Off: 512, Len: 1024}},
		{"trim through", cmdTrim, flagFUA, target.Command{Op: target.OpUnmap, Off: 512, Len: 1024, FUA: true}},
		{"zeroes", cmdWriteZeroes, 0, target.Command{Op: target.OpUnmap, Off: 512, Len: 1024}},
		{"zeroes that keep their space", cmdWriteZeroes, flagNoHole | flagFUA, target.Command{Op: target.OpZero, Off: 512, Len: 1024, FUA: true}},
		{"cache", cmdCache, 0, target.Command{Op: target.OpRead, Off: 512, Len: 1024}},
		{"read", cmdRead, flagFUA, target.Command{Op: target.OpRead, Off: 512, Len: 1024}},
	} {
		var data []byte
		if r.typ == cmdWrite {
			data = make([]byte, 1024)
		}
		c.do(r.typ, r.flags, 512, 1024, data).want(t, 0)
		if got := b.unit.asked(); len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(r.want) {
			t.Errorf("%s: %+v", r.name, got)
		}
	}
	c.do(cmdFlush, flagFUA, 0, 0, nil).want(t, 0)
	if got := b.unit.asked(); len(got) != 1 || got[0].Op != target.OpFlush || got[0].FUA {
		t.Errorf("flush: %+v", got)
	}
}

func TestFastZeroIsRefusedWhereItWouldBeSlow(t *testing.T) {
	b := newBench(t, Config{})
	if err := b.srv.RemoveExport(testExport); err != nil {
		t.Fatal(err)
	}
	if err := b.srv.AddExport(testExport, fast{b.unit}); err != nil {
		t.Fatal(err)
	}
	c := b.open(true)
	c.do(cmdWriteZeroes, flagFastZero, 0, 4096, nil).want(t, 0)
	c.do(cmdWriteZeroes, flagFastZero|flagNoHole, 0, 4096, nil).want(t, errNotSup)
	c.do(cmdWriteZeroes, flagNoHole, 0, 4096, nil).want(t, 0)
}

// TestLargeRequestsGoToTheUnitInParts asks for more than the unit is given at once; the export says that it is large.
func TestLargeRequestsGoToTheUnitInParts(t *testing.T) {
	unit := newMemUnit(32 << 20)
	unit.info.SizeBytes = 1 << 40
	b := newBenchOn(t, Config{}, unit)
	for _, async := range []bool{false, true} {
		unit.set(func(u *memUnit) { u.async = async })
		c := b.open(false)
		for _, r := range []struct {
			typ   uint16
			n     uint32
			parts int
			reach int64
		}{
			{cmdTrim, 1<<32 - 512, 8, 1<<32 - 512}, {cmdWriteZeroes, 1 << 30, 2, 1 << 30}, {cmdCache, 1 << 31, 32, 32 << 20},
			{cmdRead, 32 << 20, 4, 32 << 20}, {cmdWrite, 20 << 20, 3, 20 << 20},
		} {
			data := []byte(nil)
			if r.typ == cmdWrite {
				data = pattern(3, int(r.n))
			}
			c.do(r.typ, 0, 0, r.n, data).want(t, 0)
			at := int64(0)
			got := unit.asked()
			for _, p := range got {
				if p.Off != at {
					t.Errorf("request %d: part at %d, want %d", r.typ, p.Off, at)
				}
				at += p.Len
			}
			if len(got) != r.parts || at != r.reach {
				t.Errorf("request %d, async %v: %d parts up to %d", r.typ, async, len(got), at)
			}
		}
		if got := c.do(cmdRead, 0, 0, 20<<20, nil); !bytes.Equal(got.data, pattern(3, 20<<20)) {
			t.Error("read something else")
		}
		// A part that fails is the end of the request.
		unit.asked()
		unit.set(func(u *memUnit) {
			u.fail = func(c *target.Command) error {
				if c.Off > 0 {
					return target.ErrMedium
				}
				return nil
			}
		})
		c.do(cmdTrim, 0, 0, 1<<32-512, nil).want(t, errIO)
		if got := unit.asked(); len(got) != 2 {
			t.Errorf("async %v: %d parts after a failure", async, len(got))
		}
		unit.set(func(u *memUnit) { u.fail = nil })
	}
}

func TestBlockStatusTellsWhatIsAllocated(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(true)
	const hole = stateHole | stateZero
	c.do(cmdWrite, 0, 8192, 16384, make([]byte, 16384)).want(t, 0)
	c.do(cmdTrim, 0, 12288, 512, nil).want(t, 0)
	for _, r := range []struct {
		flags uint16
		off   uint64
		n     uint32
		want  []uint32
	}{
		{0, 0, 65536, []uint32{8192, hole, 4096, 0, 512, hole, 11776, 0, 40960, hole}},
		{0, 8704, 512, []uint32{512, 0}},
		{flagReqOne, 0, 65536, []uint32{8192, hole}},
		{flagReqOne, 8704, 1024, []uint32{1024, 0}},
		{flagFUA, 24576, 16<<20 - 24576, []uint32{16<<20 - 24576, hole}},
	} {
		if got := c.do(cmdBlockStatus, r.flags, r.off, r.n, nil).want(t, 0).extents; !slices.Equal(got, r.want) {
			t.Errorf("%d bytes from %d: %v, want %v", r.n, r.off, got, r.want)
		}
	}
	for off := uint64(0); off < 1<<20; off += 1024 {
		c.do(cmdWrite, 0, off, 512, make([]byte, 512)).want(t, 0)
	}
	for off := uint64(0); off < 1<<20; off += 1024 {
		c.do(cmdTrim, 0, off+512, 512, nil).want(t, 0)
	}
	got := c.do(cmdBlockStatus, 0, 0, 1<<20, nil).want(t, 0).extents
	if len(got) != 2*maxExtents {
		t.Errorf("%d extents, want the bound", len(got)/2)
	}
}

// TestAFlushCoversWhatOtherConnectionsWereAnswered is what CAN_MULTI_CONN promises.
func TestAFlushCoversWhatOtherConnectionsWereAnswered(t *testing.T) {
	b := newBench(t, Config{})
	one, two := b.open(false), b.open(true)
	if one.flags&txCanMultiConn == 0 {
		t.Fatal("not offered")
	}
	want := pattern(9, 4096)
	one.do(cmdWrite, 0, 4096, 4096, want).want(t, 0)
	if got := two.do(cmdRead, 0, 4096, 4096, nil).want(t, 0); !bytes.Equal(got.data, want) {
		t.Error("the other connection reads something else")
	}
	if bytes.Equal(b.unit.bytes(b.unit.durable, 4096, 4096), want) {
		t.Fatal("durable before the flush: the test shows nothing")
	}
	two.do(cmdFlush, 0, 0, 0, nil).want(t, 0)
	if !bytes.Equal(b.unit.bytes(b.unit.durable, 4096, 4096), want) {
		t.Error("not durable after the other connection's flush")
	}
	one.do(cmdWrite, flagFUA, 0, 512, want[:512]).want(t, 0)
	if !bytes.Equal(b.unit.bytes(b.unit.durable, 0, 512), want[:512]) {
		t.Error("not durable after FUA")
	}
}

func TestADisconnectFollowsTheAnswersThatAreDue(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(false)
	b.unit.set(func(u *memUnit) { u.holding = true })
	for range 3 {
		c.ask(cmdRead, 0, 0, 4096, nil)
		<-b.unit.arrived
	}
	c.ask(cmdDisc, 0, 0, 0, nil)
	b.unit.release()
	for range 3 {
		c.answered(4096).want(t, 0)
	}
	if n := c.gone(); n != 0 {
		t.Errorf("%d bytes answer a disconnect", n)
	}
}

func TestGarbageEndsTheConnection(t *testing.T) {
	b := newBench(t, Config{PayloadTimeout: 50 * time.Millisecond})
	for name, send := range map[string][]any{
		"no magic":              {uint32(1), make([]byte, 24)},
		"a write of 4 GiB":      {uint32(magicRequest), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(1<<32 - 512)},
		"a write without data":  {uint32(magicRequest), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(4096), make([]byte, 100)},
		"a write that is wrong": {uint32(magicRequest), uint16(0), uint16(cmdWrite), uint64(1), uint64(7), uint32(4096), make([]byte, 100)},
	} {
		c := b.open(true)
		c.put(send...)
		if n := c.gone(); n != 0 {
			t.Errorf("%s: %d bytes answer", name, n)
		}
	}
	if got := b.unit.asked(); len(got) != 0 {
		t.Errorf("the unit was asked: %+v", got)
	}
}
