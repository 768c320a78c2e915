package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Limits of EXTENDED COPY, which RECEIVE COPY RESULTS and the Third-party Copy page declare.
const (
	maxCopyCSCDs    = 64
	maxCopySegments = 64
	maxCopyList     = maxCopyCSCDs*cscdLen + maxCopySegments*segmentLen
	copyHeaderLen   = 16

	cscdIdentification = 0xe4 // identification descriptor CSCD descriptor
	cscdLen            = 32
	segmentBlocks      = 0x02 // block device to block device segment descriptor
	segmentLen         = 28

	cscdThisUnit = 0xffff // the CSCD descriptor id of the unit that EXTENDED COPY was sent to
)

// copySegment is one segment of a copy: blocks of from to to. sense, when not nil, is why it cannot be.
type copySegment struct {
	from, to  *lun
	src, dst  uint64
	blocks    uint64
	sense     *iscsi.Sense
	backwards bool // the ranges overlap so that the end has to go first
}

// copyOrder is an EXTENDED COPY at work. The copy manager reads and writes the units that the initiator is logged in to: see reaches.
type copyOrder struct {
	segments []copySegment
	result   *copyResult // nil when the initiator wants none
	done     int         // segments
	moved    uint64      // blocks of the segment at work
	buf      []byte
}

func copyAborted(asc uint16) *iscsi.Sense { return &iscsi.Sense{Key: iscsi.SenseCopyAborted, ASC: asc} }

func prepExtendedCopy(t *task) *iscsi.Sense {
	n := binary.BigEndian.Uint32(t.cmd.CDB[10:])
	if n > copyHeaderLen+maxCopyList || n > 0 && t.edtl(t.cmd.Write) < int(n) {
		return illegal(iscsi.ASCParameterListLength)
	}
	t.outLen = int(n)
	return nil
}

// extendedCopy carries out EXTENDED COPY (LID1) (SPC-4, command of that name): blocks go from unit to unit without the network.
func extendedCopy(t *task) {
	if len(t.data) == 0 {
		t.finish()
		return
	}
	o, sense := t.parseCopy(t.data)
	if sense != nil {
		t.fail(*sense)
		return
	}
	go t.copy(o) // it may take long, and the reader has other commands to take
}

// parseCopy reads a parameter list. Errors of the list as such refuse the command; those of a segment end the copy when its
// turn comes.
func (t *task) parseCopy(b []byte) (*copyOrder, *iscsi.Sense) {
	be := binary.BigEndian
	if len(b) < copyHeaderLen {
		return nil, illegal(iscsi.ASCParameterListLength)
	}
	id, usage := b[0], b[1]>>3&3
	cscds, segments, inline := uint64(be.Uint16(b[2:])), uint64(be.Uint32(b[8:])), be.Uint32(b[12:])
	switch {
	case inline > 0:
		return nil, illegal(iscsi.ASCInlineDataLength)
	case cscds+segments > maxCopyList || copyHeaderLen+cscds+segments > uint64(len(b)):
		return nil, illegal(iscsi.ASCParameterListLength)
	case usage == 1, usage == 3 && id != 0:
		return nil, invalidParam(1)
	}
	list := b[copyHeaderLen:]
	units, sense := t.parseCSCDs(list[:cscds])
	if sense != nil {
		return nil, sense
	}
	o := &copyOrder{}
	if o.segments, sense = t.parseSegments(list[cscds:cscds+segments], units); sense != nil {
		return nil, sense
	}
	if usage != 3 {
		o.result = t.s.copies.begin(id, usage == 0)
		if o.result == nil {
			return nil, illegal(iscsi.ASCOperationInProgress)
		}
	}
	return o, nil
}

// parseCSCDs finds the units of the copy sources and destinations; nil for one that is not to be reached.
func (t *task) parseCSCDs(b []byte) ([]*lun, *iscsi.Sense) {
	if len(b)/cscdLen > maxCopyCSCDs {
		return nil, illegal(iscsi.ASCTooManyCSCDs)
	}
	var units []*lun
	for at := 0; at < len(b); at += cscdLen {
		d := b[at:]
		switch {
		case d[0] != cscdIdentification:
			return nil, illegal(iscsi.ASCUnsupportedCSCD)
		case len(d) < cscdLen:
			return nil, illegal(iscsi.ASCParameterListLength)
		}
		units = append(units, t.cscd(d[:cscdLen]))
	}
	return units, nil
}

// cscd is the unit that an identification descriptor names by its NAA, of the initiator's target or of another one that it is logged in
// to; its T10 designator is too long for one. LU ID TYPE is ignored where there is no LU IDENTIFIER, as here.
func (t *task) cscd(d []byte) *lun {
	const null = 0x20
	n := int(d[7])
	if d[1]&null != 0 || d[1]&0x1f != 0 || n > 20 || d[5]&0x30 != 0 {
		return nil
	}
	if blockLen := binary.BigEndian.Uint32(d[28:]) & 0xffffff; blockLen != BlockSize && blockLen != 0 {
		return nil
	}
	const naa = 3
	if d[5]&0xf != naa {
		return nil
	}
	var found *lun
	for _, l := range t.s.srv.named(string(d[8 : 8+n])) {
		if l.of == t.s.tgt {
			return l
		}
		if t.reaches(l, accessRead) != nil {
			found = l
		}
	}
	return found
}

func (t *task) parseSegments(b []byte, units []*lun) ([]copySegment, *iscsi.Sense) {
	be := binary.BigEndian
	var out []copySegment
	for len(b) > 0 {
		switch {
		case b[0] != segmentBlocks:
			return nil, illegal(iscsi.ASCUnsupportedSegment)
		case len(out) == maxCopySegments:
			return nil, illegal(iscsi.ASCTooManySegments)
		case len(b) < segmentLen || be.Uint16(b[2:]) != segmentLen-4:
			return nil, illegal(iscsi.ASCParameterListLength)
		}
		s := copySegment{blocks: uint64(be.Uint16(b[10:])), src: be.Uint64(b[12:]), dst: be.Uint64(b[20:])}
		if s.from, s.sense = t.unitOf(be.Uint16(b[4:]), units); s.sense == nil {
			s.to, s.sense = t.unitOf(be.Uint16(b[6:]), units)
		}
		s.backwards = s.from == s.to && s.src < s.dst && s.dst-s.src < s.blocks
		out = append(out, s)
		b = b[segmentLen:]
	}
	return out, nil
}

// unitOf is the unit that a segment's CSCD descriptor id stands for.
func (t *task) unitOf(id uint16, units []*lun) (*lun, *iscsi.Sense) {
	switch {
	case id == cscdThisUnit:
		return t.lun, nil
	case int(id) >= len(units):
		return nil, copyAborted(iscsi.ASCUnreachableCSCD)
	case units[id] == nil:
		return nil, unreachable()
	}
	return units[id], nil
}
