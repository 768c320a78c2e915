package iscsi

// The PDUs a target sends. Stat is set by PDU.SetStat just before the PDU goes out, so Put leaves it alone; Parse
// reads it, since the initiator needs it.

// Stat holds the sequence numbers of a target's PDU.
type Stat struct{ StatSN, ExpCmdSN, MaxCmdSN uint32 }

func parseStat(p *PDU) Stat { return Stat{p.StatSN(), p.ExpCmdSN(), p.MaxCmdSN()} }

// Residual is the difference between what a command said it would move and what there was to move (section 11.4.1).
type Residual struct {
	Over, Under bool
	Count       uint32
}

func (r Residual) flags() byte { return flag(r.Over, 0x04) | flag(r.Under, 0x02) }

func parseResidual(p *PDU) Residual {
	return Residual{Over: p.BHS[1]&0x04 != 0, Under: p.BHS[1]&0x02 != 0, Count: p.u32(44)}
}

// SCSIResponse is section 11.4. Response 0 means the command completed at the target, with Status.
type SCSIResponse struct {
	Stat
	Response  byte
	Status    Status
	ITT       uint32
	ExpDataSN uint32
	Residual  Residual
}

// ParseSCSIResponse reads the header of p; the sense is in p.Data, see ResponseSense.
func ParseSCSIResponse(p *PDU) SCSIResponse {
	return SCSIResponse{Stat: parseStat(p), Response: p.BHS[2], Status: Status(p.BHS[3]), ITT: p.ITT(),
		ExpDataSN: p.u32(36), Residual: parseResidual(p)}
}

// Put writes the header into p.
func (r SCSIResponse) Put(p *PDU) {
	p.start(OpSCSIResponse, false, 0x80|r.Residual.flags())
	p.BHS[2], p.BHS[3] = r.Response, byte(r.Status)
	p.put32(16, r.ITT)
	p.put32(36, r.ExpDataSN)
	p.put32(44, r.Residual.Count)
}

// DataIn is section 11.7. HasStatus (the S bit) makes it the command's answer too; StatSN counts only then.
type DataIn struct {
	Stat
	Final, HasStatus bool
	Status           Status
	LUN              uint64
	ITT, TTT         uint32
	DataSN, Offset   uint32
	Residual         Residual
}

// ParseDataIn reads the header of p.
func ParseDataIn(p *PDU) DataIn {
	return DataIn{Stat: parseStat(p), Final: p.Final(), HasStatus: p.BHS[1]&1 != 0, Status: Status(p.BHS[3]), LUN: p.LUN(),
		ITT: p.ITT(), TTT: p.TTT(), DataSN: p.u32(36), Offset: p.u32(40), Residual: parseResidual(p)}
}

// Put writes the header into p.
func (d DataIn) Put(p *PDU) {
	p.start(OpDataIn, false, flag(d.Final, 0x80)|d.Residual.flags()|flag(d.HasStatus, 1))
	p.BHS[3] = byte(d.Status)
	p.put64(8, d.LUN)
	p.put32(16, d.ITT)
	p.put32(20, d.TTT)
	p.put32(36, d.DataSN)
	p.put32(40, d.Offset)
	p.put32(44, d.Residual.Count)
}

// R2T is section 11.8: the target asks for Length bytes from Offset.
type R2T struct {
	Stat
	LUN                   uint64
	ITT, TTT              uint32
	R2TSN, Offset, Length uint32
}

// ParseR2T reads the header of p.
func ParseR2T(p *PDU) R2T {
	return R2T{Stat: parseStat(p), LUN: p.LUN(), ITT: p.ITT(), TTT: p.TTT(), R2TSN: p.u32(36), Offset: p.u32(40), Length: p.u32(44)}
}

// Put writes the header into p.
func (r R2T) Put(p *PDU) {
	p.start(OpR2T, false, 0x80)
	p.put64(8, r.LUN)
	p.put32(16, r.ITT)
	p.put32(20, r.TTT)
	p.put32(36, r.R2TSN)
	p.put32(40, r.Offset)
	p.put32(44, r.Length)
}

// NopIn is section 11.19. TTT other than NoTag asks for a NOP-Out.
type NopIn struct {
	Stat
	LUN      uint64
	ITT, TTT uint32
}

// ParseNopIn reads the header of p.
func ParseNopIn(p *PDU) NopIn {
	return NopIn{Stat: parseStat(p), LUN: p.LUN(), ITT: p.ITT(), TTT: p.TTT()}
}

// Put writes the header into p.
func (n NopIn) Put(p *PDU) {
	p.start(OpNopIn, false, 0x80)
	p.put64(8, n.LUN)
	p.put32(16, n.ITT)
	p.put32(20, n.TTT)
}

// TaskMgmtResponse is section 11.6.
type TaskMgmtResponse struct {
	Stat
	Response byte
	ITT      uint32
}

// ParseTaskMgmtResponse reads the header of p.
func ParseTaskMgmtResponse(p *PDU) TaskMgmtResponse {
	return TaskMgmtResponse{Stat: parseStat(p), Response: p.BHS[2], ITT: p.ITT()}
}

// Put writes the header into p.
func (t TaskMgmtResponse) Put(p *PDU) {
	p.start(OpTaskMgmtRsp, false, 0x80)
	p.BHS[2] = t.Response
	p.put32(16, t.ITT)
}

// LoginResponse is section 11.13. Status is class and detail, see LoginSuccess and those after it.
type LoginResponse struct {
	Stat
	Transit, Continue         bool
	CSG, NSG                  byte
	VersionMax, VersionActive byte
	ISID                      [6]byte
	TSIH                      uint16
	ITT                       uint32
	Status                    uint16
}

// ParseLoginResponse reads the header of p.
func ParseLoginResponse(p *PDU) LoginResponse {
	l := LoginResponse{Stat: parseStat(p), Transit: p.BHS[1]&0x80 != 0, Continue: p.BHS[1]&0x40 != 0,
		CSG: p.BHS[1] >> 2 & 3, NSG: p.BHS[1] & 3, VersionMax: p.BHS[2], VersionActive: p.BHS[3], TSIH: p.u16(14),
		ITT: p.ITT(), Status: p.u16(36)}
	copy(l.ISID[:], p.BHS[8:14])
	return l
}

// Put writes the header into p.
func (l LoginResponse) Put(p *PDU) {
	p.start(OpLoginResponse, false, flag(l.Transit, 0x80)|flag(l.Continue, 0x40)|l.CSG&3<<2|l.NSG&3)
	p.BHS[2], p.BHS[3] = l.VersionMax, l.VersionActive
	copy(p.BHS[8:14], l.ISID[:])
	p.put16(14, l.TSIH)
	p.put32(16, l.ITT)
	p.put16(36, l.Status)
}

// TextResponse is section 11.11.
type TextResponse struct {
	Stat
	Final, Continue bool
	LUN             uint64
	ITT, TTT        uint32
}

// ParseTextResponse reads the header of p.
func ParseTextResponse(p *PDU) TextResponse {
	return TextResponse{Stat: parseStat(p), Final: p.Final(), Continue: p.BHS[1]&0x40 != 0, LUN: p.LUN(), ITT: p.ITT(), TTT: p.TTT()}
}

// Put writes the header into p.
func (t TextResponse) Put(p *PDU) {
	p.start(OpTextResponse, false, flag(t.Final, 0x80)|flag(t.Continue, 0x40))
	p.put64(8, t.LUN)
	p.put32(16, t.ITT)
	p.put32(20, t.TTT)
}

// LogoutResponse is section 11.15. The times are in seconds.
type LogoutResponse struct {
	Stat
	Response               byte
	ITT                    uint32
	TimeToWait, TimeToHold uint16
}

// ParseLogoutResponse reads the header of p.
func ParseLogoutResponse(p *PDU) LogoutResponse {
	return LogoutResponse{Stat: parseStat(p), Response: p.BHS[2], ITT: p.ITT(), TimeToWait: p.u16(40), TimeToHold: p.u16(42)}
}

// Put writes the header into p.
func (l LogoutResponse) Put(p *PDU) {
	p.start(OpLogoutResponse, false, 0x80)
	p.BHS[2] = l.Response
	p.put32(16, l.ITT)
	p.put16(40, l.TimeToWait)
	p.put16(42, l.TimeToHold)
}

// Reject is section 11.17; Data carries the header of the PDU that was refused.
type Reject struct {
	Stat
	Reason byte
}

// ParseReject reads the header of p.
func ParseReject(p *PDU) Reject { return Reject{Stat: parseStat(p), Reason: p.BHS[2]} }

// Put writes the header into p.
func (r Reject) Put(p *PDU) {
	p.start(OpReject, false, 0x80)
	p.BHS[2] = r.Reason
	p.put32(16, NoTag)
}

// Async is section 11.9.
type Async struct {
	Stat
	LUN                    uint64
	Event, VCode           byte
	Param1, Param2, Param3 uint16
}

// ParseAsync reads the header of p.
func ParseAsync(p *PDU) Async {
	return Async{Stat: parseStat(p), LUN: p.LUN(), Event: p.BHS[36], VCode: p.BHS[37], Param1: p.u16(38), Param2: p.u16(40), Param3: p.u16(42)}
}

// Put writes the header into p.
func (a Async) Put(p *PDU) {
	p.start(OpAsync, false, 0x80)
	p.put64(8, a.LUN)
	p.put32(16, NoTag)
	p.BHS[36], p.BHS[37] = a.Event, a.VCode
	p.put16(38, a.Param1)
	p.put16(40, a.Param2)
	p.put16(42, a.Param3)
}
