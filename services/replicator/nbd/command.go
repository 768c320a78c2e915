package nbd

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// header is a request as it came.
type header struct {
	flags, typ  uint16
	cookie, off uint64
	length      uint32
}

// command says how a request is carried out.
type command struct {
	op      target.Op // what the unit is asked; 0 asks nothing of Submit
	flags   uint16    // those that may be set, besides FUA, which any request may carry
	changes bool
	ranged  bool  // offset and length count
	part    int64 // the most that the unit is given at once
}

const (
	cacheBytes = 1 << 20 // a prefetch reads in parts of this
	maxCache   = 32 << 20
)

var commands = [...]command{
	cmdRead:        {op: target.OpRead, flags: flagDF, ranged: true, part: 8 << 20},
	cmdWrite:       {op: target.OpWrite, changes: true, ranged: true, part: 8 << 20},
	cmdFlush:       {op: target.OpFlush},
	cmdTrim:        {op: target.OpUnmap, changes: true, ranged: true, part: 512 << 20},
	cmdCache:       {op: target.OpRead, ranged: true, part: cacheBytes},
	cmdWriteZeroes: {op: target.OpZero, flags: flagNoHole | flagFastZero, changes: true, ranged: true, part: 512 << 20},
	cmdBlockStatus: {flags: flagReqOne, ranged: true},
}

// refusal is why a request is not carried out; errno 0 refuses nothing.
type refusal struct {
	errno errno
	why   string
}

// check holds a request against what was negotiated and what the unit is.
func (c *conn) check(h *header) refusal {
	if int(h.typ) >= len(commands) || h.typ == cmdDisc {
		return refusal{errInval, "unknown request"}
	}
	cmd := &commands[h.typ]
	allowed := cmd.flags | flagFUA
	if !c.structured {
		allowed &^= flagDF
	}
	if c.flags&txSendFastZero == 0 {
		allowed &^= flagFastZero
	}
	size := uint64(c.info.SizeBytes)
	switch {
	case h.flags&^allowed != 0:
		return refusal{errInval, "unknown flag for this request"}
	case cmd.changes && c.info.ReadOnly:
		return refusal{errPerm, "the export is read only"}
	case h.typ == cmdTrim && c.flags&txSendTrim == 0:
		return refusal{errInval, "the export has no trim"}
	case !cmd.ranged:
		return refusal{}
	case h.off%target.BlockSize != 0 || h.length%target.BlockSize != 0:
		return refusal{errInval, "offset and length must be multiples of the minimum block size, 512"}
	case h.off > size || uint64(h.length) > size-h.off:
		if h.typ == cmdWrite || h.typ == cmdWriteZeroes {
			return refusal{errNoSpc, "beyond the end of the export"}
		}
		return refusal{errInval, "beyond the end of the export"}
	case h.typ == cmdRead && h.length > maxPayload:
		return refusal{errInval, "longer than the maximum block size, 32 MiB"}
	case h.typ == cmdBlockStatus && (!c.allocation || h.length == 0):
		return refusal{errInval, "needs a metadata context and a length"}
	}
	return c.checkZero(h)
}

// checkZero refuses a request to zero fast what takes as long as writing.
func (c *conn) checkZero(h *header) refusal {
	if h.typ != cmdWriteZeroes || h.flags&flagFastZero == 0 {
		return refusal{}
	}
	if hole := c.zeroOp(h.flags) == target.OpUnmap; hole && c.exp.fastHole || !hole && c.exp.fastZero {
		return refusal{}
	}
	return refusal{errNotSup, "zeroing this would be no faster than writing"}
}

// zeroOp is how zeroes are written: by giving the space back, which reads as zeroes too, where the client lets us.
func (c *conn) zeroOp(flags uint16) target.Op {
	if flags&flagNoHole == 0 && c.info.ThinProvisioned {
		return target.OpUnmap
	}
	return target.OpZero
}

// memory is how much a request needs while it is in flight, in bytes.
func (h *header) memory() int {
	switch h.typ {
	case cmdRead, cmdWrite:
		return int(h.length)
	case cmdCache:
		return int(min(h.length, cacheBytes))
	}
	return 0
}

// handle begins one request. An error ends the connection.
func (c *conn) handle(h *header) error {
	if h.typ == cmdDisc {
		return errDisconnect
	}
	if h.typ == cmdWrite && h.length > maxPayload {
		return fmt.Errorf("write of %d bytes, limit %d: %w", h.length, maxPayload, errProtocol)
	}
	refused := c.check(h)
	n := 0
	if refused.errno == 0 {
		n = h.memory()
	}
	r, err := c.newRequest(n)
	if err != nil {
		return err
	}
	r.header, r.arrived = *h, c.readAt
	if h.typ == cmdWrite {
		if err := c.payload(r.data, int(h.length)); err != nil {
			c.close(err.Error(), false)
			r.finish()
			return err
		}
	}
	if refused.errno != 0 {
		r.refuse(refused)
		return nil
	}
	r.begin()
	return nil
}

// refusalOf is how a client hears of a unit's error.
func refusalOf(err error) refusal {
	switch {
	case errors.Is(err, target.ErrReadOnly):
		return refusal{errPerm, "the export is read only"}
	case errors.Is(err, target.ErrNoSpace), errors.Is(err, syscall.ENOSPC):
		return refusal{errNoSpc, "no space left for the export"}
	}
	return refusal{errIO, "the export's disk failed"}
}
