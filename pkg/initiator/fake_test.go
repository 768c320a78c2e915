package initiator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const (
	fakeTarget = "iqn.2026-11.test:fake"
	fakeBlocks = 4096
	fakeBS     = 512
)

// fake is a target in the process: one disk in memory, any number of sessions, and hooks to misbehave with.
type fake struct {
	t  testing.TB
	ln net.Listener
	wg sync.WaitGroup

	started sync.Once

	mu     sync.Mutex
	disk   []byte
	serial string
	log    []string // commands carried out, in order
	conns  []net.Conn
	logins int

	// Knobs, set before use.
	chap       CHAP
	segment    int  // our MaxRecvDataSegmentLength and the size of our Data-In
	initialR2T bool // insist on it
	window     uint32
	// before is asked for each command before it is carried out, under no lock.
	before func(cdb iscsi.CDB) verdict
	ping   bool // send a NOP-In before each answer
}

type verdict int

const (
	carryOut  verdict = iota
	drop              // close the connection instead
	dropAfter         // carry out, then close instead of answering
	mute              // carry out nothing and answer nothing
	busy
	attention
)

func newFake(t testing.TB) *fake {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ln: ln, disk: make([]byte, fakeBlocks*fakeBS), serial: "SN1", segment: 8192, window: 32}
	t.Cleanup(f.stop)
	return f
}

// url is where the fake is; from the first call on it answers, and its knobs stay as they are.
func (f *fake) url() string {
	f.started.Do(func() { f.wg.Go(f.accept) })
	return fmt.Sprintf("iscsi://%s/%s/0", f.ln.Addr(), fakeTarget)
}

func (f *fake) loginCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logins
}

func (f *fake) stop() {
	f.ln.Close()
	f.cut()
	f.wg.Wait()
}

// cut closes every connection.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func (f *fake) history() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

func (f *fake) accept() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
		f.wg.Go(func() {
			defer c.Close()
			s := &fakeSession{f: f, r: iscsi.NewReader(c, nil, f.segment), w: iscsi.NewWriter(c), stat: 1, cmdSN: 1, writes: map[uint32]*fakeWrite{}}
			_ = s.run()
		})
	}
}

type fakeSession struct {
	f      *fake
	r      *iscsi.Reader
	w      *iscsi.Writer
	stat   uint32
	cmdSN  uint32 // expected
	writes map[uint32]*fakeWrite
}

type fakeWrite struct {
	cmd  iscsi.SCSICommand
	data []byte
	got  int
}

var errDrop = errors.New("drop")

func (s *fakeSession) run() error {
	if err := s.login(); err != nil {
		return err
	}
	var p iscsi.PDU
	for {
		if err := s.r.Next(&p); err != nil {
			return err
		}
		if err := s.serve(&p); err != nil {
			return err
		}
	}
}

func (s *fakeSession) reply(p *iscsi.PDU, status bool) error {
	p.SetStat(s.stat, s.cmdSN, s.cmdSN+s.f.window-1)
	if status {
		s.stat++
	}
	if err := s.w.Write(p); err != nil {
		return err
	}
	return s.w.Flush()
}

// login answers requests until the initiator is in the full feature phase.
func (s *fakeSession) login() error {
	s.f.mu.Lock()
	s.f.logins++
	s.f.mu.Unlock()
	chap := s.f.chap
	var challenge iscsi.Challenge
	proven := chap.User == ""
	var p iscsi.PDU
	for {
		if err := s.r.Next(&p); err != nil {
			return err
		}
		req := iscsi.ParseLogin(&p)
		keys, err := iscsi.DecodePairs(p.Data)
		if err != nil {
			return err
		}
		res := iscsi.LoginResponse{CSG: req.CSG, NSG: req.NSG, Transit: req.Transit, ISID: req.ISID, ITT: req.ITT, TSIH: 1}
		var out iscsi.Pairs
		header, data := false, false
		for _, kv := range keys {
			switch kv.Key {
			case "AuthMethod":
				if !proven && kv.Value != "CHAP" {
					res.Status = iscsi.LoginAuthFailure
				}
				out.Add("AuthMethod", kv.Value)
			case "CHAP_A":
				challenge = iscsi.NewChallenge()
				out.Add("CHAP_A", "5")
				challenge.Add(&out)
			case "CHAP_R":
				name, _ := keys.Get("CHAP_N")
				if proven = name == chap.User && challenge.Verify(kv.Value, []byte(chap.Secret)); !proven {
					res.Status = iscsi.LoginAuthFailure
				}
				if c, err := iscsi.ParseChallenge(keys); err == nil {
					out.Add("CHAP_N", chap.MutualUser)
					out.Add("CHAP_R", iscsi.EncodeBinary(c.Response([]byte(chap.MutualSecret))))
				}
			case "InitialR2T":
				if s.f.initialR2T {
					kv.Value = "Yes"
				}
				out.Add(kv.Key, kv.Value)
			case "HeaderDigest":
				header = kv.Value == "CRC32C"
				out.Add(kv.Key, kv.Value)
			case "DataDigest":
				data = kv.Value == "CRC32C"
				out.Add(kv.Key, kv.Value)
			case "MaxRecvDataSegmentLength":
				out.Add(kv.Key, fmt.Sprint(s.f.segment))
			case "InitiatorName", "TargetName", "SessionType", "CHAP_N", "CHAP_I", "CHAP_C":
			default:
				out.Add(kv.Key, kv.Value)
			}
		}
		var q iscsi.PDU
		res.Put(&q)
		q.Data = out.Encode()
		if err := s.reply(&q, true); err != nil {
			return err
		}
		if res.Status != 0 {
			return errDrop
		}
		if res.Transit && res.NSG == iscsi.StageFullFeature {
			s.r.SetDigests(header, data)
			s.w.SetDigests(header, data)
			return nil
		}
	}
}

func (s *fakeSession) serve(p *iscsi.PDU) error {
	switch p.Opcode() {
	case iscsi.OpSCSICommand:
		cmd := iscsi.ParseSCSICommand(p)
		if cmd.CmdSN != s.cmdSN {
			s.f.t.Errorf("CmdSN %d, want %d", cmd.CmdSN, s.cmdSN)
		}
		s.cmdSN++
		if !cmd.Write {
			return s.execute(cmd, nil)
		}
		w := &fakeWrite{cmd: cmd, data: make([]byte, cmd.EDTL)}
		w.got = copy(w.data, p.Data)
		s.writes[cmd.ITT] = w
		return s.more(w, cmd.Final)
	case iscsi.OpDataOut:
		d := iscsi.ParseDataOut(p)
		w := s.writes[d.ITT]
		copy(w.data[d.Offset:], p.Data)
		w.got += len(p.Data)
		return s.more(w, d.Final)
	case iscsi.OpNopOut:
		n := iscsi.ParseNopOut(p)
		if n.ITT == iscsi.NoTag {
			return nil
		}
		var q iscsi.PDU
		iscsi.NopIn{ITT: n.ITT, TTT: iscsi.NoTag}.Put(&q)
		return s.reply(&q, true)
	case iscsi.OpLogout:
		var q iscsi.PDU
		iscsi.LogoutResponse{ITT: p.ITT()}.Put(&q)
		return s.reply(&q, true)
	}
	return fmt.Errorf("unexpected %v", p.Opcode())
}

// more asks for the rest of a write once a sequence of data is over.
func (s *fakeSession) more(w *fakeWrite, final bool) error {
	switch {
	case !final:
		return nil
	case w.got < len(w.data):
		var q iscsi.PDU
		iscsi.R2T{ITT: w.cmd.ITT, TTT: 7, Offset: uint32(w.got), Length: uint32(min(len(w.data)-w.got, 100_000))}.Put(&q)
		return s.reply(&q, false)
	}
	delete(s.writes, w.cmd.ITT)
	return s.execute(w.cmd, w.data)
}

func (s *fakeSession) execute(cmd iscsi.SCSICommand, out []byte) error {
	v := carryOut
	if s.f.before != nil {
		v = s.f.before(cmd.CDB)
	}
	if s.f.ping {
		var q iscsi.PDU
		iscsi.NopIn{ITT: iscsi.NoTag, TTT: 9}.Put(&q)
		if err := s.reply(&q, false); err != nil {
			return err
		}
	}
	switch v {
	case drop:
		return errDrop
	case mute:
		return nil
	case busy:
		return s.status(cmd, iscsi.StatusBusy, iscsi.Sense{})
	case attention:
		return s.status(cmd, iscsi.StatusCheckCondition, iscsi.Sense{Key: iscsi.SenseUnitAttention, ASC: iscsi.ASCPowerOn})
	}
	in, status, sense := s.f.carryOut(cmd.CDB, out)
	if v == dropAfter {
		return errDrop
	}
	if status != iscsi.StatusGood || len(in) == 0 {
		return s.status(cmd, status, sense)
	}
	return s.dataIn(cmd, in[:min(len(in), int(cmd.EDTL))])
}

func (s *fakeSession) status(cmd iscsi.SCSICommand, st iscsi.Status, sense iscsi.Sense) error {
	var q iscsi.PDU
	iscsi.SCSIResponse{Status: st, ITT: cmd.ITT}.Put(&q)
	if st == iscsi.StatusCheckCondition {
		q.Data = iscsi.AppendSense(nil, sense)
	}
	return s.reply(&q, true)
}

func (s *fakeSession) dataIn(cmd iscsi.SCSICommand, in []byte) error {
	for off, sn := 0, uint32(0); off < len(in); sn++ {
		n := min(s.f.segment, len(in)-off)
		last := off+n == len(in)
		var q iscsi.PDU
		iscsi.DataIn{Final: last, HasStatus: last, ITT: cmd.ITT, TTT: iscsi.NoTag, DataSN: sn, Offset: uint32(off)}.Put(&q)
		q.Data = in[off : off+n]
		if err := s.reply(&q, last); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// carryOut is the disk itself.
func (f *fake) carryOut(cdb iscsi.CDB, out []byte) ([]byte, iscsi.Status, iscsi.Sense) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lba, blocks, _ := iscsi.Range(cdb)
	from, to := lba*fakeBS, (lba+uint64(blocks))*fakeBS
	switch cdb[0] {
	case iscsi.TestUnitReady:
	case iscsi.Inquiry:
		if cdb[1]&1 != 0 {
			return append([]byte{0, 0x80, 0, byte(len(f.serial))}, f.serial...), 0, iscsi.Sense{}
		}
		b := make([]byte, 36)
		copy(b[8:], "HOLDFASTFAKE            0001")
		return b, 0, iscsi.Sense{}
	case iscsi.ServiceActionIn16:
		b := make([]byte, 32)
		binary.BigEndian.PutUint64(b, uint64(len(f.disk)/fakeBS-1))
		binary.BigEndian.PutUint32(b[8:], fakeBS)
		return b, 0, iscsi.Sense{}
	case iscsi.Read16:
		return bytes.Clone(f.disk[from:to]), 0, iscsi.Sense{}
	case iscsi.Write16:
		f.log = append(f.log, fmt.Sprintf("write %d %d fua=%v", lba, blocks, cdb[1]&iscsi.BitFUA != 0))
		copy(f.disk[from:to], out)
	case iscsi.CompareAndWrite:
		f.log = append(f.log, fmt.Sprintf("caw %d %d", lba, blocks))
		if !bytes.Equal(f.disk[from:to], out[:len(out)/2]) {
			return nil, iscsi.StatusCheckCondition, iscsi.Sense{Key: iscsi.SenseMiscompare, ASC: iscsi.ASCMiscompare}
		}
		copy(f.disk[from:to], out[len(out)/2:])
	case iscsi.SyncCache16:
		f.log = append(f.log, "flush")
	case iscsi.Unmap:
		lba, n := binary.BigEndian.Uint64(out[8:]), binary.BigEndian.Uint32(out[16:])
		f.log = append(f.log, fmt.Sprintf("unmap %d %d", lba, n))
		clear(f.disk[lba*fakeBS : (lba+uint64(n))*fakeBS])
	default:
		return nil, iscsi.StatusCheckCondition, iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: iscsi.ASCInvalidOpcode}
	}
	return nil, iscsi.StatusGood, iscsi.Sense{}
}
