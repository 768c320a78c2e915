package target

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// steady is a client that allocates nothing: it keeps 8 commands of n bytes in flight and answers R2Ts.
type steady struct {
	c    *client
	p, q iscsi.PDU
	data []byte
}

func (s *steady) run(t *testing.T, write, immediate bool, count int) {
	const depth = 8
	n := uint32(len(s.data))
	for range count / depth {
		for range depth {
			s.c.itt++
			cdb := iscsi.Read16CDB(0, n/BlockSize)
			if write {
				cdb = iscsi.Write16CDB(0, n/BlockSize, false)
			}
			iscsi.SCSICommand{Final: true, Read: !write, Write: write, Attr: iscsi.AttrSimple, ITT: s.c.itt, EDTL: n, CmdSN: s.c.cmdSN, CDB: cdb}.Put(&s.p)
			s.c.cmdSN++
			s.send(t, immediate)
		}
		for left := depth; left > 0; {
			if err := s.c.r.Next(&s.q); err != nil {
				t.Fatal(err)
			}
			switch s.q.Opcode() {
			case iscsi.OpR2T:
				r := iscsi.ParseR2T(&s.q)
				iscsi.DataOut{Final: true, ITT: r.ITT, TTT: r.TTT, Offset: r.Offset}.Put(&s.p)
				s.send(t, true)
			case iscsi.OpSCSIResponse:
				if s.q.BHS[3] != 0 {
					t.Fatalf("status %#x", s.q.BHS[3])
				}
				left--
			case iscsi.OpDataIn:
				if s.q.BHS[1]&1 != 0 {
					left--
				}
			}
			s.q.Release()
		}
	}
}

func (s *steady) send(t *testing.T, data bool) {
	s.p.Data = nil
	if data {
		s.p.Data = s.data
	}
	if err := s.c.w.Write(&s.p); err != nil {
		t.Fatal(err)
	}
	if err := s.c.w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsAllocatedPerCommand counts what initiator and target allocate together for 1,600 commands of each kind, by
// immediate data and by R2T. The collector may empty the pools at any time: less than one allocation in ten commands is none per
// command.
func TestNothingIsAllocatedPerCommand(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: the race detector makes pools forget")
	}
	b := newBench(t, Config{}, nil)
	for _, n := range []int{4 << 10, 128 << 10} {
		for name, kind := range map[string][2]bool{"read": {false, false}, "write": {true, false}, "write with immediate data": {true, true}} {
			if kind[1] && n > 64<<10 {
				continue // more than the first burst
			}
			t.Run(fmt.Sprintf("%s of %d KiB", name, n>>10), func(t *testing.T) {
				s := &steady{c: b.login(kv("MaxRecvDataSegmentLength", "262144")...), data: make([]byte, n)}
				s.c.do(iscsi.CDB{}, 0) // takes the unit attention
				s.run(t, kind[0], kind[1], 160)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				s.run(t, kind[0], kind[1], 1600)
				runtime.ReadMemStats(&after)
				if made := after.Mallocs - before.Mallocs; made > 160 {
					t.Errorf("%d allocations for 1600 commands", made)
				}
			})
		}
	}
}
