package target

import (
	"encoding/binary"
)

// Service actions of PERSISTENT RESERVE IN.
const (
	readKeys        = 0
	readReservation = 1
	reportAbilities = 2
	readFullStatus  = 3
)

// reserveIn answers PERSISTENT RESERVE IN (SPC-4 section 6.15).
func reserveIn(t *task) {
	alloc := int(binary.BigEndian.Uint16(t.cmd.CDB[7:]))
	var b []byte
	switch r := t.lun.held.see(); t.cmd.CDB[1] & 0x1f {
	case readKeys:
		b = r.readKeys()
	case readReservation:
		b = r.readReservation()
	case reportAbilities:
		b = t.lun.held.abilities()
	case readFullStatus:
		b = r.readFullStatus()
	}
	t.answer(b, alloc)
}

// abilities is SIP_C and ATP_C, TMV with every type, and persistence through power loss where the unit can.
func (h *holding) abilities() []byte {
	b := []byte{0, 8, 0x0c, 0x80, 0xea, 0x01, 0, 0}
	if h.keeper != nil {
		b[2] |= 0x01 // PTPL_C
	}
	if h.see().keep {
		b[3] |= 0x01 // PTPL_A
	}
	return b
}

// header is the generation and the length of what follows.
func (r *reservations) header(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, r.generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

func (r *reservations) readKeys() []byte {
	var body []byte
	for _, g := range r.list {
		body = binary.BigEndian.AppendUint64(body, g.key)
	}
	return r.header(body)
}

func (r *reservations) readReservation() []byte {
	if r.kind == 0 {
		return r.header(nil)
	}
	body := make([]byte, 16)
	if !r.allRegistrants() {
		binary.BigEndian.PutUint64(body, r.key(r.holder))
	}
	body[13] = r.kind
	return r.header(body)
}

func (r *reservations) readFullStatus() []byte {
	var body []byte
	for _, g := range r.list {
		id := transportID(g.nexus)
		d := make([]byte, 24)
		binary.BigEndian.PutUint64(d, g.key)
		if r.holds(g.nexus) {
			d[12], d[13] = 1, r.kind
		}
		if g.allPorts {
			d[12] |= 0x02
		}
		binary.BigEndian.PutUint16(d[18:], relativePort)
		binary.BigEndian.PutUint32(d[20:], uint32(len(id)))
		body = append(append(body, d...), id...)
	}
	return r.header(body)
}
