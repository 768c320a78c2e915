package iscsi

// The PDUs an initiator sends. Each is parsed from a PDU whose opcode was looked at already, and put into one; Put sets
// the header only, Data is the caller's.

// SCSICommand is section 11.3. EDTL is the expected data transfer length in bytes.
type SCSICommand struct {
	Immediate, Final, Read, Write bool
	Attr                          byte
	LUN                           uint64
	ITT, EDTL, CmdSN, ExpStatSN   uint32
	CDB                           [16]byte
}

// ParseSCSICommand reads the header of p.
func ParseSCSICommand(p *PDU) SCSICommand {
	c := SCSICommand{
		Immediate: p.Immediate(), Final: p.Final(), Read: p.BHS[1]&0x40 != 0, Write: p.BHS[1]&0x20 != 0,
		Attr: p.BHS[1] & 7, LUN: p.LUN(), ITT: p.ITT(), EDTL: p.u32(20), CmdSN: p.CmdSN(), ExpStatSN: p.ExpStatSN(),
	}
	copy(c.CDB[:], p.BHS[32:])
	return c
}

// Put writes the header into p.
func (c SCSICommand) Put(p *PDU) {
	p.start(OpSCSICommand, c.Immediate, flag(c.Final, 0x80)|flag(c.Read, 0x40)|flag(c.Write, 0x20)|c.Attr&7)
	p.put64(8, c.LUN)
	p.put32(16, c.ITT)
	p.put32(20, c.EDTL)
	p.SetCmdSN(c.CmdSN, c.ExpStatSN)
	copy(p.BHS[32:], c.CDB[:])
}

// DataOut is section 11.7. Offset is from the start of the command's buffer; TTT is NoTag for unsolicited data.
type DataOut struct {
	Final                       bool
	LUN                         uint64
	ITT, TTT, ExpStatSN, DataSN uint32
	Offset                      uint32
}

// ParseDataOut reads the header of p.
func ParseDataOut(p *PDU) DataOut {
	return DataOut{Final: p.Final(), LUN: p.LUN(), ITT: p.ITT(), TTT: p.TTT(), ExpStatSN: p.ExpStatSN(),
		DataSN: p.u32(36), Offset: p.u32(40)}
}

// Put writes the header into p.
func (d DataOut) Put(p *PDU) {
	p.start(OpDataOut, false, flag(d.Final, 0x80))
	p.put64(8, d.LUN)
	p.put32(16, d.ITT)
	p.put32(20, d.TTT)
	p.put32(28, d.ExpStatSN)
	p.put32(36, d.DataSN)
	p.put32(40, d.Offset)
}

// NopOut is section 11.18. ITT NoTag asks for no answer; TTT other than NoTag answers a NOP-In.
type NopOut struct {
	Immediate                  bool
	LUN                        uint64
	ITT, TTT, CmdSN, ExpStatSN uint32
}

// ParseNopOut reads the header of p.
func ParseNopOut(p *PDU) NopOut {
	return NopOut{Immediate: p.Immediate(), LUN: p.LUN(), ITT: p.ITT(), TTT: p.TTT(), CmdSN: p.CmdSN(), ExpStatSN: p.ExpStatSN()}
}

// Put writes the header into p.
func (n NopOut) Put(p *PDU) {
	p.start(OpNopOut, n.Immediate, 0x80)
	p.put64(8, n.LUN)
	p.put32(16, n.ITT)
	p.put32(20, n.TTT)
	p.SetCmdSN(n.CmdSN, n.ExpStatSN)
}

// TaskMgmt is section 11.5.
type TaskMgmt struct {
	Immediate                               bool
	Function                                TaskMgmtFunction
	LUN                                     uint64
	ITT, RefITT, CmdSN, ExpStatSN, RefCmdSN uint32
	ExpDataSN                               uint32
}

// ParseTaskMgmt reads the header of p.
func ParseTaskMgmt(p *PDU) TaskMgmt {
	return TaskMgmt{Immediate: p.Immediate(), Function: TaskMgmtFunction(p.BHS[1] & 0x7f), LUN: p.LUN(), ITT: p.ITT(),
		RefITT: p.u32(20), CmdSN: p.CmdSN(), ExpStatSN: p.ExpStatSN(), RefCmdSN: p.u32(32), ExpDataSN: p.u32(36)}
}

// Put writes the header into p.
func (t TaskMgmt) Put(p *PDU) {
	p.start(OpTaskMgmt, t.Immediate, 0x80|byte(t.Function)&0x7f)
	p.put64(8, t.LUN)
	p.put32(16, t.ITT)
	p.put32(20, t.RefITT)
	p.SetCmdSN(t.CmdSN, t.ExpStatSN)
	p.put32(32, t.RefCmdSN)
	p.put32(36, t.ExpDataSN)
}

// Login is a login request, section 11.12. CSG and NSG are stages; Transit is the T bit, Continue the C bit.
type Login struct {
	Transit, Continue      bool
	CSG, NSG               byte
	VersionMax, VersionMin byte
	ISID                   [6]byte
	TSIH, CID              uint16
	ITT, CmdSN, ExpStatSN  uint32
}

// ParseLogin reads the header of p.
func ParseLogin(p *PDU) Login {
	l := Login{Transit: p.BHS[1]&0x80 != 0, Continue: p.BHS[1]&0x40 != 0, CSG: p.BHS[1] >> 2 & 3, NSG: p.BHS[1] & 3,
		VersionMax: p.BHS[2], VersionMin: p.BHS[3], TSIH: p.u16(14), ITT: p.ITT(), CID: p.u16(20),
		CmdSN: p.CmdSN(), ExpStatSN: p.ExpStatSN()}
	copy(l.ISID[:], p.BHS[8:14])
	return l
}

// Put writes the header into p. A login request is always immediate.
func (l Login) Put(p *PDU) {
	p.start(OpLoginRequest, true, flag(l.Transit, 0x80)|flag(l.Continue, 0x40)|l.CSG&3<<2|l.NSG&3)
	p.BHS[2], p.BHS[3] = l.VersionMax, l.VersionMin
	copy(p.BHS[8:14], l.ISID[:])
	p.put16(14, l.TSIH)
	p.put32(16, l.ITT)
	p.put16(20, l.CID)
	p.SetCmdSN(l.CmdSN, l.ExpStatSN)
}

// Text is a text request, section 11.10.
type Text struct {
	Immediate, Final, Continue bool
	LUN                        uint64
	ITT, TTT, CmdSN, ExpStatSN uint32
}

// ParseText reads the header of p.
func ParseText(p *PDU) Text {
	return Text{Immediate: p.Immediate(), Final: p.Final(), Continue: p.BHS[1]&0x40 != 0, LUN: p.LUN(), ITT: p.ITT(),
		TTT: p.TTT(), CmdSN: p.CmdSN(), ExpStatSN: p.ExpStatSN()}
}

// Put writes the header into p.
func (t Text) Put(p *PDU) {
	p.start(OpTextRequest, t.Immediate, flag(t.Final, 0x80)|flag(t.Continue, 0x40))
	p.put64(8, t.LUN)
	p.put32(16, t.ITT)
	p.put32(20, t.TTT)
	p.SetCmdSN(t.CmdSN, t.ExpStatSN)
}

// Logout is section 11.14.
type Logout struct {
	Immediate             bool
	Reason                byte
	CID                   uint16
	ITT, CmdSN, ExpStatSN uint32
}

// ParseLogout reads the header of p.
func ParseLogout(p *PDU) Logout {
	return Logout{Immediate: p.Immediate(), Reason: p.BHS[1] & 0x7f, CID: p.u16(20), ITT: p.ITT(), CmdSN: p.CmdSN(),
		ExpStatSN: p.ExpStatSN()}
}

// Put writes the header into p.
func (l Logout) Put(p *PDU) {
	p.start(OpLogout, l.Immediate, 0x80|l.Reason&0x7f)
	p.put32(16, l.ITT)
	p.put16(20, l.CID)
	p.SetCmdSN(l.CmdSN, l.ExpStatSN)
}
