package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Mode pages.
const (
	pageRecovery      = 0x01
	pageCaching       = 0x08
	pageControl       = 0x0a
	pageInformational = 0x1c
	pageAll           = 0x3f

	swpBit = 0x08 // of byte 4 of the control page: the only thing an initiator may change
)

// modePage is a page's content, changeable says which bits MODE SELECT may change; nil for an unknown page.
func (l *lun) modePage(page byte, changeable bool) []byte {
	var b []byte
	switch page {
	case pageRecovery:
		b = make([]byte, 12)
	case pageCaching:
		b = make([]byte, 20)
		if l.info.WriteCache && !changeable {
			b[2] = 0x04 // WCE
		}
	case pageControl:
		b = make([]byte, 12)
		if changeable {
			b[4] = swpBit
			break
		}
		b[3] = 0x10 // queue algorithm: unrestricted reordering of simple tasks
		if l.swp.Load() {
			b[4] |= swpBit
		}
	case pageInformational:
		b = make([]byte, 12)
	default:
		return nil
	}
	b[0], b[1] = page, byte(len(b)-2)
	return b
}

// modeSense answers MODE SENSE (6) and (10) (SPC-4 sections 6.13 and 6.14).
func modeSense(t *task) {
	cdb := &t.cmd.CDB
	long := cdb[0] == iscsi.ModeSense10
	control, page, sub := cdb[2]>>6, cdb[2]&0x3f, cdb[3]
	if control == 3 {
		t.fail(iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: 0x3900}) // saving is not supported
		return
	}
	if sub != 0 && sub != 0xff {
		t.fail(*invalidField(3))
		return
	}
	var pages []byte
	for _, p := range []byte{pageRecovery, pageCaching, pageControl, pageInformational} {
		if page != p && page != pageAll {
			continue
		}
		b := t.lun.modePage(p, control == 1)
		if control == 2 && p == pageControl {
			b[4] &^= swpBit
		}
		pages = append(pages, b...)
	}
	if len(pages) == 0 {
		t.fail(*invalidField(2))
		return
	}
	var descriptor []byte
	if cdb[1]&0x08 == 0 {
		descriptor = make([]byte, 8)
		binary.BigEndian.PutUint32(descriptor, uint32(min(t.lun.blocks.Load(), 0xffffffff)))
		descriptor[6] = BlockSize >> 8
	}
	device := byte(0x10) // DPOFUA
	if t.lun.readOnly() {
		device |= 0x80
	}
	n := len(descriptor) + len(pages)
	head := []byte{byte(n + 3), 0, device, byte(len(descriptor))}
	alloc := int(cdb[4])
	if long {
		head = []byte{byte((n + 6) >> 8), byte(n + 6), 0, device, 0, 0, 0, byte(len(descriptor))}
		alloc = int(binary.BigEndian.Uint16(cdb[7:]))
	}
	t.answer(append(append(head, descriptor...), pages...), alloc)
}

func prepModeSelect(t *task) *iscsi.Sense {
	cdb := &t.cmd.CDB
	if cdb[1]&0x10 == 0 || cdb[1]&0x01 != 0 { // PF must be, SP must not
		return invalidField(1)
	}
	t.outLen = int(cdb[4])
	if cdb[0] == iscsi.ModeSelect10 {
		t.outLen = int(binary.BigEndian.Uint16(cdb[7:]))
	}
	return nil
}

// modeSelect takes the control page's write protect bit and refuses any other change.
func modeSelect(t *task) {
	b := t.data
	if len(b) == 0 {
		t.finish()
		return
	}
	head, descriptors := 4, 3
	if t.cmd.CDB[0] == iscsi.ModeSelect10 {
		head, descriptors = 8, 7
	}
	if len(b) < head || len(b) < head+int(b[descriptors]) {
		t.fail(*illegal(iscsi.ASCParameterListLength))
		return
	}
	at := head + int(b[descriptors])
	swp, changed := false, false
	for at < len(b) {
		if len(b)-at < 2 || len(b)-at < 2+int(b[at+1]) {
			t.fail(*illegal(iscsi.ASCParameterListLength))
			return
		}
		page := b[at : at+2+int(b[at+1])]
		wrong, set := t.lun.checkPage(page)
		if wrong >= 0 {
			t.fail(*invalidParam(at + wrong))
			return
		}
		if page[0]&0x3f == pageControl {
			swp, changed = set, true
		}
		at += len(page)
	}
	if changed && t.lun.swp.Swap(swp) != swp {
		t.tellOthers(iscsi.ASCModeParamsChanged)
	}
	t.finish()
}

// checkPage compares a page with the current one; wrong is the first byte that may not differ so, -1 when none.
func (l *lun) checkPage(page []byte) (wrong int, swp bool) {
	current := l.modePage(page[0]&0x3f, false)
	mask := l.modePage(page[0]&0x3f, true)
	if current == nil || page[0]&0x40 != 0 {
		return 0, false
	}
	if len(page) != len(current) {
		return 1, false
	}
	for i := 2; i < len(page); i++ {
		if (page[i]^current[i])&^mask[i] != 0 {
			return i, false
		}
	}
	return -1, page[0]&0x3f == pageControl && page[4]&swpBit != 0
}

// tellOthers raises a unit attention for every other session.
func (t *task) tellOthers(asc uint16) {
	for _, ss := range t.s.tgt.list() {
		if ss != t.s {
			ss.addUA(t.lun.number, asc)
		}
	}
}
