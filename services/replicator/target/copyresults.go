package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Service actions of RECEIVE COPY RESULTS (SPC-4, third-party copy commands).
const (
	copyStatusSA    = 0x00
	copyOperatingSA = 0x03
	copyFailureSA   = 0x04
)

func copyCommands() []*command {
	const usage = "\x84\x1f\xff\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x07"
	return []*command{
		{op: iscsi.ExtendedCopy, sa: 0, usage: "\x83\x1f\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x07", access: accessWrite, prep: prepExtendedCopy, run: extendedCopy},
		{op: iscsi.ReceiveCopyResults, sa: copyStatusSA, usage: usage, run: copyStatus},
		{op: iscsi.ReceiveCopyResults, sa: copyOperatingSA, usage: usage, run: copyOperating},
		{op: iscsi.ReceiveCopyResults, sa: copyFailureSA, usage: usage, run: copyFailure},
	}
}

func (t *task) copyAlloc() int { return int(min(binary.BigEndian.Uint32(t.cmd.CDB[10:]), 1<<16)) }

// copyStatus tells how a copy goes, or went.
func copyStatus(t *task) {
	c, ok := t.s.copies.take(t.cmd.CDB[2], false)
	if !ok {
		t.fail(*invalidField(2))
		return
	}
	b := make([]byte, 12)
	b[3] = 8
	switch {
	case c.sense != nil:
		b[4] = 2 // completed with errors
	case c.ended:
		b[4] = 1 // completed without
	}
	binary.BigEndian.PutUint16(b[5:], uint16(c.segments))
	b[7] = 1 // kibibytes
	binary.BigEndian.PutUint32(b[8:], uint32(min(c.blocks*BlockSize>>10, 0xffffffff)))
	t.answer(b, t.copyAlloc())
}

// copyFailure tells what ended a copy.
func copyFailure(t *task) {
	c, ok := t.s.copies.take(t.cmd.CDB[2], true)
	if !ok {
		t.fail(*invalidField(2))
		return
	}
	b := make([]byte, 4)
	if c.sense != nil {
		b = make([]byte, 60, 60+iscsi.SenseLen)
		b[56] = byte(iscsi.StatusCheckCondition)
		binary.BigEndian.PutUint16(b[58:], iscsi.SenseLen)
		fixed := c.sense.Fixed()
		b = append(b, fixed[:]...)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	}
	t.answer(b, t.copyAlloc())
}

// copyOperating tells the limits of EXTENDED COPY.
func copyOperating(t *task) {
	types := []byte{segmentBlocks, cscdIdentification}
	b := make([]byte, 44, 44+len(types))
	be := binary.BigEndian
	b[4] = 1 // SNLID: a copy may go without a list identifier
	be.PutUint16(b[8:], maxCopyCSCDs)
	be.PutUint16(b[10:], maxCopySegments)
	be.PutUint32(b[12:], maxCopyList)
	be.PutUint32(b[16:], 0xffff*BlockSize) // the longest segment
	be.PutUint16(b[34:], t.maxCopies())
	b[36] = byte(t.maxCopies())
	b[37] = 9 // segments are of whole blocks, 2^9 bytes
	b[43] = byte(len(types))
	b = append(b, types...)
	be.PutUint32(b, uint32(len(b)-4))
	t.answer(b, t.copyAlloc())
}

// maxCopies is how many copies one session may have at work: as many as commands.
func (t *task) maxCopies() uint16 { return uint16(min(t.s.srv.cfg.QueueDepth, 255)) }

// thirdParty is the Third-party Copy VPD page.
func (t *task) thirdParty() []byte {
	var b []byte
	be := binary.BigEndian
	add := func(kind uint16, body []byte) {
		body = append(body, make([]byte, -len(body)&3)...)
		b = be.AppendUint16(b, kind)
		b = be.AppendUint16(b, uint16(len(body)))
		b = append(b, body...)
	}
	commands := []byte{iscsi.ExtendedCopy, 1, 0, iscsi.ReceiveCopyResults, 3, copyStatusSA, copyOperatingSA, copyFailureSA}
	add(0x0001, append([]byte{byte(len(commands))}, commands...))
	params := make([]byte, 28)
	be.PutUint16(params[4:], maxCopyCSCDs)
	be.PutUint16(params[6:], maxCopySegments)
	be.PutUint32(params[8:], maxCopyList)
	add(0x0004, params)
	add(0x0008, []byte{2, segmentBlocks, cscdIdentification})
	add(0x000c, []byte{0, 2, cscdThisUnit >> 8, cscdThisUnit & 0xff})
	general := make([]byte, 32)
	be.PutUint32(general, uint32(t.maxCopies()))
	be.PutUint32(general[4:], uint32(t.maxCopies()))
	be.PutUint32(general[8:], 0xffff*BlockSize)
	general[12] = 9
	add(0x8001, general)
	return b
}
