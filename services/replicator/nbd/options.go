package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// exportName is the old way to choose an export: there is no way to refuse but to hang up.
func (h *handshake) exportName(name string) error {
	c := h.c
	e := c.srv.find(name)
	if e == nil {
		return fmt.Errorf("open export %q: %w", name, domain.ErrNotFound)
	}
	if err := c.open(e, h.structured); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(c.info.SizeBytes))
	b = binary.BigEndian.AppendUint16(b, c.flags)
	if !h.noZeroes {
		b = append(b, make([]byte, exportZeroes)...)
	}
	_, err := c.nc.Write(b)
	return err
}

// open makes e the connection's export.
func (c *conn) open(e *export, structured bool) error {
	if err := e.enter(c); err != nil {
		return err
	}
	c.exp, c.info = e, e.unit.Info()
	c.flags = e.flags(&c.info, structured)
	return nil
}

// parser takes an option's data apart; bad is set once it does not hold what it should.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n uint32) []byte {
	if uint64(n) > uint64(len(p.b)) {
		p.bad = true
		return nil
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) u16() uint16 {
	if b := p.take(2); !p.bad {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (p *parser) u32() uint32 {
	if b := p.take(4); !p.bad {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text is a string behind its length.
func (p *parser) text() string {
	n := p.u32()
	if n > maxName {
		p.bad = true
	}
	if p.bad {
		return ""
	}
	return string(p.take(n))
}

// whole reports whether the data was what it should be, to its end.
func (p *parser) whole() bool { return !p.bad && len(p.b) == 0 }

// infoOrGo describes an export and, for NBD_OPT_GO, opens it.
func (h *handshake) infoOrGo(data []byte) error {
	p := parser{b: data}
	name := p.text()
	var asked []uint16
	for range p.u16() {
		if asked = append(asked, p.u16()); p.bad {
			break
		}
	}
	if !p.whole() {
		return h.refuse(repErrInvalid, "the option's lengths do not add up")
	}
	e := h.c.srv.find(name)
	if e == nil {
		return h.refuse(repErrUnknown, "no export of this name")
	}
	info := e.unit.Info()
	if h.opt == optGo {
		err := h.c.open(e, h.structured)
		info = h.c.info
		if errors.Is(err, domain.ErrNotFound) {
			return h.refuse(repErrUnknown, "no export of this name")
		}
		if err != nil {
			return err
		}
	}
	h.describe(e, &info, asked)
	return h.ack()
}

// describe replies what is to be known of an export. Block sizes are told without being asked for: they bind everyone.
func (h *handshake) describe(e *export, info *target.UnitInfo, asked []uint16) {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(info.SizeBytes))
	h.reply(repInfo, binary.BigEndian.AppendUint16(b, e.flags(info, h.structured)))
	if slices.Contains(asked, infoName) {
		h.reply(repInfo, append(binary.BigEndian.AppendUint16(nil, infoName), e.name...))
	}
	if slices.Contains(asked, infoDescription) && info.Product != "" {
		h.reply(repInfo, append(binary.BigEndian.AppendUint16(nil, infoDescription), info.Product...))
	}
	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, target.BlockSize)
	b = binary.BigEndian.AppendUint32(b, preferredSize)
	h.reply(repInfo, binary.BigEndian.AppendUint32(b, maxPayload))
}

// metaContext lists or chooses metadata contexts. base:allocation is there where the unit knows what is allocated.
func (h *handshake) metaContext(data []byte) error {
	choose := h.opt == optSetMetaContext
	if choose {
		h.context = nil // also when what follows fails
	}
	p := parser{b: data}
	name := p.text()
	n := p.u32()
	match := n == 0 && !choose && !p.bad
	for range n {
		q := p.text()
		if p.bad {
			break
		}
		match = match || q == contextAllocation || q == "base:" && !choose
	}
	switch {
	case !p.whole():
		return h.refuse(repErrInvalid, "the option's lengths do not add up")
	case choose && !h.structured:
		return h.refuse(repErrInvalid, "ask for structured replies first")
	}
	e := h.c.srv.find(name)
	if e == nil {
		return h.refuse(repErrUnknown, "no export of this name")
	}
	if match && e.mapper != nil {
		id := uint32(0)
		if choose {
			id, h.context = contextAllocationID, e
		}
		h.reply(repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), contextAllocation...))
	}
	return h.ack()
}
