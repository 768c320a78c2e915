package iscsi

import "encoding/binary"

// PDU is one protocol data unit: the basic header segment in wire form, additional header segments if any (padded to
// four bytes), and the data segment without its padding. The digests belong to the stream, not to the PDU.
type PDU struct {
	BHS  [BHSLen]byte
	AHS  []byte
	Data []byte

	buf *Buffer // what Data is a part of, when a Reader allocated it
}

// Reset empties p for reuse, giving a pooled buffer back.
func (p *PDU) Reset() {
	p.Release()
	p.BHS = [BHSLen]byte{}
	p.AHS = p.AHS[:0]
}

// Release gives the pooled buffer behind Data back; Data is gone afterwards. It may be called more than once.
func (p *PDU) Release() {
	p.Data = nil
	if p.buf != nil {
		p.buf.Release()
		p.buf = nil
	}
}

// Take moves the buffer behind Data to the caller, who releases it. It is nil when Data was not pooled.
func (p *PDU) Take() *Buffer {
	b := p.buf
	p.buf = nil
	return b
}

// Opcode is the PDU's kind.
func (p *PDU) Opcode() Opcode { return Opcode(p.BHS[0] & 0x3f) }

// Immediate reports the immediate delivery bit: the PDU is outside of the CmdSN order.
func (p *PDU) Immediate() bool { return p.BHS[0]&0x40 != 0 }

// SetOpcode writes the first byte.
func (p *PDU) SetOpcode(o Opcode, immediate bool) {
	p.BHS[0] = byte(o)
	if immediate {
		p.BHS[0] |= 0x40
	}
}

// Flags is byte 1, whose meaning depends on the opcode; Final its highest bit (F, or T in a login).
func (p *PDU) Flags() byte { return p.BHS[1] }

// Final is the highest bit of byte 1 (F; T in a login).
func (p *PDU) Final() bool { return p.BHS[1]&0x80 != 0 }

// DataLen is the DataSegmentLength field.
func (p *PDU) DataLen() int { return int(p.BHS[5])<<16 | int(p.BHS[6])<<8 | int(p.BHS[7]) }

// AHSLen is the TotalAHSLength field in bytes.
func (p *PDU) AHSLen() int { return int(p.BHS[4]) * 4 }

// ValidAHS reports whether additional header segments fill their room exactly (RFC 7143 section 11.2.2): each is a length
// of two bytes, a type, and that many bytes padded to four in all.
func ValidAHS(b []byte) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		n := int(b[0])<<8 | int(b[1])
		if n < 1 || (3+n+3)&^3 > len(b) {
			return false
		}
		b = b[(3+n+3)&^3:]
	}
	return true
}

func (p *PDU) setLengths() {
	n := len(p.Data)
	p.BHS[4] = byte(len(p.AHS) / 4)
	p.BHS[5], p.BHS[6], p.BHS[7] = byte(n>>16), byte(n>>8), byte(n)
}

// LUN is the raw 8-byte logical unit number; see DecodeLUN.
func (p *PDU) LUN() uint64 { return p.u64(8) }

// ITT is the initiator task tag.
func (p *PDU) ITT() uint32 { return p.u32(16) }

// TTT is the target transfer tag of the opcodes that have one at byte 20.
func (p *PDU) TTT() uint32 { return p.u32(20) }

// CmdSN is the command sequence number of an initiator's PDU (not of Data-Out).
func (p *PDU) CmdSN() uint32 { return p.u32(24) }

// ExpStatSN acknowledges statuses in an initiator's PDU.
func (p *PDU) ExpStatSN() uint32 { return p.u32(28) }

// StatSN is the status sequence number of a target's PDU.
func (p *PDU) StatSN() uint32 { return p.u32(24) }

// ExpCmdSN acknowledges commands in a target's PDU.
func (p *PDU) ExpCmdSN() uint32 { return p.u32(28) }

// MaxCmdSN closes the command window in a target's PDU.
func (p *PDU) MaxCmdSN() uint32 { return p.u32(32) }

// SetStat writes the three sequence numbers every answer of a target carries. They are set last, under the lock that
// orders the stream.
func (p *PDU) SetStat(statSN, expCmdSN, maxCmdSN uint32) {
	p.put32(24, statSN)
	p.put32(28, expCmdSN)
	p.put32(32, maxCmdSN)
}

// SetStatSN writes StatSN alone.
func (p *PDU) SetStatSN(n uint32) { p.put32(24, n) }

// SetCmdSN writes CmdSN and ExpStatSN of an initiator's PDU.
func (p *PDU) SetCmdSN(cmdSN, expStatSN uint32) {
	p.put32(24, cmdSN)
	p.put32(28, expStatSN)
}

func (p *PDU) u16(off int) uint16      { return binary.BigEndian.Uint16(p.BHS[off:]) }
func (p *PDU) u32(off int) uint32      { return binary.BigEndian.Uint32(p.BHS[off:]) }
func (p *PDU) u64(off int) uint64      { return binary.BigEndian.Uint64(p.BHS[off:]) }
func (p *PDU) put16(off int, v uint16) { binary.BigEndian.PutUint16(p.BHS[off:], v) }
func (p *PDU) put32(off int, v uint32) { binary.BigEndian.PutUint32(p.BHS[off:], v) }
func (p *PDU) put64(off int, v uint64) { binary.BigEndian.PutUint64(p.BHS[off:], v) }

// start clears the header and writes the first two bytes; Put of every typed PDU begins with it. Data and AHS stay the
// caller's to set.
func (p *PDU) start(o Opcode, immediate bool, flags byte) {
	p.BHS = [BHSLen]byte{}
	p.SetOpcode(o, immediate)
	p.BHS[1] = flags
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

// EncodeLUN is the 8-byte form of a unit number: peripheral device addressing below 256, flat space up to 16383
// (SAM-5 section 4.7).
func EncodeLUN(n int) uint64 {
	if n < 256 {
		return uint64(n) << 48
	}
	return uint64(0x4000|n&0x3fff) << 48
}

// DecodeLUN is the unit number in an 8-byte LUN; ok is false for forms that name no unit of a single-level target.
func DecodeLUN(raw uint64) (n int, ok bool) {
	if raw&0x0000ffffffffffff != 0 {
		return 0, false
	}
	first := int(raw >> 48)
	switch first >> 14 {
	case 0:
		return first & 0xff, first>>8 == 0
	case 1:
		return first & 0x3fff, true
	}
	return 0, false
}
