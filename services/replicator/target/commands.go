package target

import "github.com/holdfast-dr/holdfast/pkg/iscsi"

// access is what a command needs of a reservation that another initiator holds (SPC-4 table 51, SBC-4 table 13).
type access byte

const (
	accessNone  access = iota // allowed always
	accessRead                // refused under exclusive access
	accessWrite               // refused under write exclusive and exclusive access
)

// command is one entry of the command set: how it is found, described to REPORT SUPPORTED OPERATION CODES, and run.
type command struct {
	op     byte
	sa     int    // service action, -1 for none
	usage  string // CDB usage data; its length is the CDB's
	access access
	quiet  bool // runs while a unit attention is pending
	anyLUN bool // runs on a unit number that has no unit
	bare   bool // runs while the medium is ejected
	always bool // runs while the unit is sanitized, and when that failed
	mends  bool // runs when a sanitize failed
	// offered says whether a unit has the command; nil: every unit.
	offered func(*lun) bool
	// prep checks the CDB and sets outLen, lba, blocks; run starts the command when its data is here.
	prep func(*task) *iscsi.Sense
	run  func(*task)
}

// commandSet is all that the target understands.
type commandSet struct {
	list []*command
	byOp [256][]*command
}

// find is the command that a CDB names, of those that l has; l nil: of all.
func (s *commandSet) find(l *lun, cdb *[16]byte) (*command, *iscsi.Sense) {
	known := false
	for _, c := range s.byOp[cdb[0]] {
		if !c.on(l) {
			continue
		}
		known = true
		if c.sa < 0 || c.sa == int(cdb[1]&0x1f) {
			return c, nil
		}
	}
	if known {
		return nil, invalidField(1)
	}
	return nil, illegal(iscsi.ASCInvalidOpcode)
}

func (c *command) on(l *lun) bool { return c.offered == nil || l == nil || c.offered(l) }

func newCommandSet() *commandSet {
	s := &commandSet{}
	s.list = append(s.list, primaryCommands()...)
	s.list = append(s.list, blockCommands()...)
	s.list = append(s.list, reservationCommands()...)
	s.list = append(s.list, aluaCommands()...)
	s.list = append(s.list, taskMgmtCommands()...)
	s.list = append(s.list, copyCommands()...)
	s.list = append(s.list, sanitizeCommands()...)
	s.list = append(s.list,
		&command{op: iscsi.MaintenanceIn, sa: iscsi.ReportOpcodesSA, bare: true, always: true, usage: "\xa3\x1f\x87\xff\xff\xff\xff\xff\xff\xff\x00\x07",
			run: func(t *task) { s.reportOpcodes(t) }})
	for _, c := range s.list {
		s.byOp[c.op] = append(s.byOp[c.op], c)
	}
	return s
}

func primaryCommands() []*command {
	return []*command{
		{op: iscsi.TestUnitReady, sa: -1, usage: "\x00\x00\x00\x00\x00\x07", access: accessRead, run: (*task).finish},
		{op: iscsi.RequestSense, sa: -1, usage: "\x03\x01\x00\x00\xff\x07", quiet: true, anyLUN: true, bare: true, always: true, run: requestSense},
		{op: iscsi.Inquiry, sa: -1, usage: "\x12\x01\xff\xff\xff\x07", quiet: true, anyLUN: true, bare: true, always: true, run: inquiry},
		{op: iscsi.ReportLUNs, sa: -1, usage: "\xa0\x00\xff\x00\x00\x00\xff\xff\xff\xff\x00\x07", quiet: true, anyLUN: true, bare: true, always: true, run: reportLUNs},
		{op: iscsi.ModeSense6, sa: -1, bare: true, usage: "\x1a\x08\xff\xff\xff\x07", access: accessRead, run: modeSense},
		{op: iscsi.ModeSense10, sa: -1, bare: true, usage: "\x5a\x18\xff\xff\x00\x00\x00\xff\xff\x07", access: accessRead, run: modeSense},
		{op: iscsi.ModeSelect6, sa: -1, bare: true, usage: "\x15\x11\x00\x00\xff\x07", access: accessWrite, prep: prepModeSelect, run: modeSelect},
		{op: iscsi.ModeSelect10, sa: -1, bare: true, usage: "\x55\x11\x00\x00\x00\x00\x00\xff\xff\x07", access: accessWrite, prep: prepModeSelect, run: modeSelect},
		{op: iscsi.StartStopUnit, sa: -1, bare: true, usage: "\x1b\x01\x00\x0f\xf7\x07", access: accessWrite, run: startStop},
		{op: iscsi.PreventAllow, sa: -1, bare: true, usage: "\x1e\x00\x00\x00\x03\x07", access: accessWrite, run: preventAllow},
	}
}

const (
	usageRange6    = "\x00\x1f\xff\xff\xff\x07"
	usageRange10   = "\x00\x00\xff\xff\xff\xff\x1f\xff\xff\x07"
	usageRange12   = "\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x07"
	usageRange16   = "\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x1f\x07"
	usageServiceIn = "\x9e\x1f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x07"
)

// ranged is the usage data of a CDB with a block range: opcode and flags put into a form's template.
func ranged(op, flags byte, template string) string {
	b := []byte(template)
	b[0] = op
	b[1] |= flags
	return string(b)
}

func blockCommands() []*command {
	r := accessRead
	w := accessWrite
	list := []*command{
		{op: iscsi.ReadCapacity10, sa: -1, usage: "\x25\x00\x00\x00\x00\x00\x00\x00\x00\x07", run: readCapacity10},
		{op: iscsi.ServiceActionIn16, sa: iscsi.ReadCapacity16SA, usage: usageServiceIn, run: readCapacity16},
		{op: iscsi.ServiceActionIn16, sa: iscsi.GetLBAStatusSA, usage: usageServiceIn, access: r, prep: prepLBAStatus, run: lbaStatus},
		{op: iscsi.Unmap, sa: -1, usage: "\x42\x00\x00\x00\x00\x00\x1f\xff\xff\x07", access: w, prep: prepUnmap, run: unmap},
		{op: iscsi.CompareAndWrite, sa: -1, usage: "\x89\x18\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\xff\x1f\x07", access: w, prep: prepCompareAndWrite, run: compareAndWrite},
		{op: iscsi.OrWrite, sa: -1, usage: ranged(iscsi.OrWrite, 0x18, usageRange16), access: w, prep: prepWrite, run: orWrite},
		{op: iscsi.WriteSame10, sa: -1, usage: ranged(iscsi.WriteSame10, 0x08, usageRange10), access: w, prep: prepWriteSame, run: writeSame},
		{op: iscsi.WriteSame16, sa: -1, usage: ranged(iscsi.WriteSame16, 0x09, usageRange16), access: w, prep: prepWriteSame, run: writeSame},
		{op: iscsi.WriteAtomic16, sa: -1, usage: "\x9c\x18\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\xff\xff\x1f\x07", access: w,
			offered: func(l *lun) bool { return l.info.MaxAtomicBytes > 0 }, prep: prepWriteAtomic, run: writeAtomic},
		{op: iscsi.SyncCache10, sa: -1, usage: ranged(iscsi.SyncCache10, 0x02, usageRange10), access: w, prep: prepRange, run: flush},
		{op: iscsi.SyncCache16, sa: -1, usage: ranged(iscsi.SyncCache16, 0x02, usageRange16), access: w, prep: prepRange, run: flush},
		{op: iscsi.Prefetch10, sa: -1, usage: ranged(iscsi.Prefetch10, 0x02, usageRange10), access: r, prep: prepRange, run: (*task).finish},
		{op: iscsi.Prefetch16, sa: -1, usage: ranged(iscsi.Prefetch16, 0x02, usageRange16), access: r, prep: prepRange, run: (*task).finish},
		{op: iscsi.ReadDefectData10, sa: -1, usage: "\x37\x00\x1f\x00\x00\x00\x00\xff\xff\x07", access: r, run: readDefects},
		{op: iscsi.ReadDefectData12, sa: -1, usage: "\xb7\x1f\xff\xff\xff\xff\xff\xff\xff\xff\x00\x07", access: r, run: readDefects},
		{op: iscsi.Read6, sa: -1, usage: ranged(iscsi.Read6, 0, usageRange6), access: r, prep: prepRead, run: read},
		{op: iscsi.Write6, sa: -1, usage: ranged(iscsi.Write6, 0, usageRange6), access: w, prep: prepWrite, run: write},
	}
	for _, f := range []struct {
		template                         string
		read, write, writeVerify, verify byte
	}{
		{usageRange10, iscsi.Read10, iscsi.Write10, iscsi.WriteVerify10, iscsi.Verify10},
		{usageRange12, iscsi.Read12, iscsi.Write12, iscsi.WriteVerify12, iscsi.Verify12},
		{usageRange16, iscsi.Read16, iscsi.Write16, iscsi.WriteVerify16, iscsi.Verify16},
	} {
		list = append(list,
			&command{op: f.read, sa: -1, usage: ranged(f.read, 0x18, f.template), access: r, prep: prepRead, run: read},
			&command{op: f.write, sa: -1, usage: ranged(f.write, 0x18, f.template), access: w, prep: prepWrite, run: write},
			&command{op: f.writeVerify, sa: -1, usage: ranged(f.writeVerify, 0x12, f.template), access: w, prep: prepWriteVerify, run: writeVerify},
			&command{op: f.verify, sa: -1, usage: ranged(f.verify, 0x12, f.template), access: r, prep: prepVerify, run: verify})
	}
	return list
}
