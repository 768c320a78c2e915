package target

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// FuzzSession feeds a session in its full feature phase with whatever it likes: it must end or answer, never panic, and
// give all memory back.
func FuzzSession(f *testing.F) {
	seed := func(puts ...interface{ Put(*iscsi.PDU) }) {
		var wire bytes.Buffer
		w := iscsi.NewWriter(&wire)
		for i, put := range puts {
			var p iscsi.PDU
			put.Put(&p)
			if i > 0 {
				p.Data = make([]byte, 512)
			}
			if err := w.Write(&p); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			f.Fatal(err)
		}
		f.Add(wire.Bytes())
	}
	write := iscsi.SCSICommand{Write: true, EDTL: 1024, CmdSN: 1, ITT: 1, CDB: iscsi.Write16CDB(0, 2, true)}
	seed(write, iscsi.DataOut{Final: true, ITT: 1, TTT: iscsi.NoTag})
	seed(iscsi.SCSICommand{Final: true, Read: true, EDTL: 1024, CmdSN: 1, CDB: iscsi.CDB{0: iscsi.MaintenanceIn, 1: iscsi.ReportOpcodesSA, 8: 4}})
	seed(iscsi.TaskMgmt{Immediate: true, Function: iscsi.LogicalUnitReset}, iscsi.Text{Final: true, CmdSN: 1, TTT: iscsi.NoTag})
	for _, c := range newCommandSet().list {
		cdb := iscsi.CDB{0: c.op, 1: byte(max(c.sa, 0)), 8: 24}
		seed(iscsi.NopOut{CmdSN: 1, TTT: iscsi.NoTag}, iscsi.SCSICommand{Final: true, Write: true, EDTL: 512, CmdSN: 2, CDB: cdb})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(Config{})
		if err := s.AddTarget(testIQN, map[int]Unit{0: newMemUnit(1 << 20)}, nil); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		c := newConn(s, theirs)
		ss := newSession(c, iscsi.Login{CmdSN: 1})
		ss.tgt, ss.initiator, ss.par.initialR2T = s.target(testIQN), "iqn.fuzz", false
		ss.maxSend.Store(8192)
		if _, err := ss.tgt.enter(ss); err != nil {
			t.Fatal(err)
		}
		c.ss = ss
		c.r.SetMaxData(maxRecvData)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.fullFeature(ss)
		}()
		go io.Copy(io.Discard, ours) // it ends with the pipe
		_ = ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = ours.Write(b)
		_ = ours.Close()
		<-ended
		if n := s.buffered.Load(); n != 0 {
			t.Fatalf("%d bytes were never given back", n)
		}
	})
}
