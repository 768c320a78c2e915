package target

import (
	"encoding/binary"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// inquiry answers standard data or a vital product data page (SPC-4 section 6.6).
func inquiry(t *task) {
	cdb := &t.cmd.CDB
	alloc := int(binary.BigEndian.Uint16(cdb[3:]))
	if cdb[1]&0x02 != 0 || cdb[1]&1 == 0 && cdb[2] != 0 {
		t.fail(*invalidField(2))
		return
	}
	if cdb[1]&1 == 0 {
		t.answer(t.standardInquiry(), alloc)
		return
	}
	page := t.vpd(cdb[2])
	if page == nil {
		t.fail(*invalidField(2))
		return
	}
	head := []byte{t.peripheral(), cdb[2], byte(len(page) >> 8), byte(len(page))}
	t.answer(append(head, page...), alloc)
}

// peripheral is byte 0: a disk, or "no unit can be here".
func (t *task) peripheral() byte {
	if t.lun == nil {
		return 0x7f
	}
	return 0
}

func (t *task) standardInquiry() []byte {
	b := make([]byte, 96)
	product := "volume"
	if t.lun != nil && t.lun.info.Product != "" {
		product = t.lun.info.Product
	}
	b[0] = t.peripheral()
	if t.lun != nil && t.lun.info.Removable {
		b[1] = 0x80 // RMB
	}
	b[2] = 0x06 // SPC-4
	b[3] = 0x12 // HISUP, response format 2
	b[4] = byte(len(b) - 5)
	b[5] = tpgsImplicit | 0x08 // 3PC: copies for others
	b[7] = 0x02                // CMDQUE
	copy(b[8:], vendor)
	copy(b[16:], pad(ascii(product), 16))
	copy(b[32:], revision)
	for i, v := range []uint16{0x00a0, 0x0960, 0x0460, 0x04c0} { // SAM-5, iSCSI, SPC-4, SBC-3
		binary.BigEndian.PutUint16(b[58+2*i:], v)
	}
	return b
}

func (t *task) vpd(page byte) []byte {
	if t.lun == nil && page != 0 {
		return nil
	}
	l := t.lun
	switch page {
	case 0x00:
		return []byte{0x00, 0x80, 0x83, 0x86, 0x8f, 0xb0, 0xb1, 0xb2}
	case 0x80:
		return []byte(l.serial())
	case 0x83:
		return t.identification()
	case 0x86:
		b := make([]byte, 60)
		b[1] = 0x01 // SIMPSUP
		if l.info.WriteCache {
			b[2] = 0x01 // V_SUP
		}
		return b
	case 0x8f:
		return t.thirdParty()
	case 0xb0:
		return l.blockLimits()
	case 0xb1:
		b := make([]byte, 60)
		b[1] = 1 // does not rotate
		if l.sanitizer != nil {
			b[3] = 0x40 // WABEREQ 01b: what was erased can be read, WACEREQ 00b: there is no CRYPTOGRAPHIC ERASE
		}
		return b
	case 0xb2:
		b := make([]byte, 4)
		if l.info.ThinProvisioned {
			b[1] = 0xe0 | 0x04 // LBPU, LBPWS, LBPWS10, LBPRZ
			b[2] = 0x02        // thin
		}
		return b
	}
	return nil
}

// identification is the device identification page: unit by vendor and by NAA, port and target by name.
func (t *task) identification() []byte {
	var b []byte
	add := func(codeSet, kind byte, id []byte) {
		b = append(b, codeSet, kind, 0, byte(len(id)))
		b = append(b, id...)
	}
	name := func(s string) []byte {
		n := append([]byte(s), 0)
		return append(n, make([]byte, -len(n)&3)...)
	}
	add(0x02, 0x01, []byte(t.lun.t10()))
	add(0x01, 0x03, t.lun.info.NAA[:])
	add(0x51, 0x94, []byte{0, 0, 0, relativePort})
	add(0x51, 0x95, []byte{0, 0, 0, portGroup})
	add(0x53, 0x98, name(t.s.tgt.iqn+",t,0x0001"))
	add(0x53, 0xa8, name(t.s.tgt.iqn))
	return b
}

func (l *lun) blockLimits() []byte {
	b := make([]byte, 60)
	be := binary.BigEndian
	b[0] = 1 // WSNZ: WRITE SAME names its blocks
	b[1] = maxCASBlocks
	be.PutUint16(b[2:], goodSize/BlockSize) // optimal granularity
	be.PutUint32(b[4:], maxTransfer/BlockSize)
	be.PutUint32(b[8:], (1<<20)/BlockSize) // optimal transfer
	be.PutUint32(b[12:], maxTransfer/BlockSize)
	if l.info.ThinProvisioned {
		be.PutUint32(b[16:], maxUnmapBlocks)
		be.PutUint32(b[20:], maxUnmapExtents)
		be.PutUint32(b[24:], goodSize/BlockSize)
		be.PutUint32(b[28:], 0x80000000) // UGAVALID, alignment 0
	}
	be.PutUint64(b[32:], maxSameBlocks)
	be.PutUint32(b[40:], uint32(l.info.MaxAtomicBytes/BlockSize)) // any alignment, any length up to it
	return b
}

// reportLUNs lists the target's units, whatever unit it is sent to.
func reportLUNs(t *task) {
	cdb := &t.cmd.CDB
	alloc := int(binary.BigEndian.Uint32(cdb[6:]))
	if cdb[2] > 2 || alloc < 16 {
		t.fail(*invalidField(2))
		return
	}
	var numbers []int
	if cdb[2] != 1 { // 1: well known units only
		for n := range t.s.tgt.luns {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	b := make([]byte, 8, 8+8*len(numbers))
	binary.BigEndian.PutUint32(b, uint32(8*len(numbers)))
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, iscsi.EncodeLUN(n))
	}
	t.answer(b, alloc)
}

// requestSense reports and clears a pending unit attention, else how a sanitize goes, else NO SENSE.
func requestSense(t *task) {
	s := iscsi.Sense{}
	if t.cmd.CDB[1]&1 != 0 { // descriptor format is not offered
		t.fail(*invalidField(1))
		return
	}
	if t.lun == nil {
		s = *illegal(iscsi.ASCLUNotSupported)
	} else if ua, ok := t.s.takeUA(t.lun.number); ok {
		s = ua
	} else if now := t.lun.sanitary(&command{}); now != nil {
		s = *now
	}
	b := s.Fixed()
	t.answer(b[:], int(t.cmd.CDB[4]))
}

// reportOpcodes answers REPORT SUPPORTED OPERATION CODES (SPC-4 section 6.35).
func (s *commandSet) reportOpcodes(t *task) {
	cdb := &t.cmd.CDB
	alloc := int(binary.BigEndian.Uint32(cdb[6:]))
	rctd := cdb[2]&0x80 != 0
	option, op, sa := cdb[2]&7, cdb[3], int(binary.BigEndian.Uint16(cdb[4:]))
	if option == 0 {
		t.answer(s.allOpcodes(t.lun, rctd), alloc)
		return
	}
	var candidates []*command
	for _, c := range s.byOp[op] {
		if c.on(t.lun) {
			candidates = append(candidates, c)
		}
	}
	hasSA := len(candidates) > 0 && candidates[0].sa >= 0
	if option > 3 || option == 1 && hasSA || option == 2 && len(candidates) > 0 && !hasSA {
		t.fail(*invalidField(2))
		return
	}
	var found *command
	for _, c := range candidates {
		if c.sa < 0 && (option == 1 || sa == 0) || c.sa >= 0 && c.sa == sa {
			found = c
		}
	}
	b := []byte{0, 0x01, 0, 0} // not supported
	if found != nil {
		b[1] = 0x03
		b[3] = byte(len(found.usage))
		b = append(b, found.usage...)
		if found.sa >= 0 {
			b[4+1] = b[4+1]&^0x1f | byte(found.sa)
		}
		if rctd {
			b[1] |= 0x80
			b = append(b, timeouts()...)
		}
	}
	t.answer(b, alloc)
}

func timeouts() []byte { return []byte{0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} }

func (s *commandSet) allOpcodes(l *lun, rctd bool) []byte {
	b := make([]byte, 4)
	for _, c := range s.list {
		if !c.on(l) {
			continue
		}
		d := []byte{c.op, 0, 0, 0, 0, 0, 0, byte(len(c.usage))}
		if c.sa >= 0 {
			binary.BigEndian.PutUint16(d[2:], uint16(c.sa))
			d[5] |= 0x01
		}
		if rctd {
			d[5] |= 0x02
			d = append(d, timeouts()...)
		}
		b = append(b, d...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}
