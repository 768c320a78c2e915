package nbd

import (
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const (
	arenaBytes = 256 << 10
	maxFlush   = 1 << 20
	maxPieces  = 256
	// Data of fewer bytes is copied behind its header; more is sent from where it lies. TLS copies in any case, and makes a
	// record of each piece.
	copyBelow    = 8 << 10
	copyBelowTLS = 128 << 10
)

// output gathers what is to be sent: headers and small data in the arena, large data by reference, so that one writev sends
// all of it. What was referenced must stay until flush. Under conn.wmu.
type output struct {
	c         *conn
	copyBelow int

	arena  *iscsi.Buffer // taken for a drain only: an idle connection has none
	used   int
	tail   bool // the last piece ends where the arena's free part begins
	pieces net.Buffers
	bytes  int
	vec    net.Buffers // what flush hands over, since it is consumed
}

// room is n bytes, at most arenaBytes, that the caller fills.
func (o *output) room(n int) ([]byte, error) {
	if o.used+n > arenaBytes || o.bytes+n > maxFlush {
		if err := o.flush(); err != nil {
			return nil, err
		}
	}
	if o.arena == nil {
		o.arena = o.c.srv.pool.Get(arenaBytes)
	}
	b := o.arena.Bytes(arenaBytes)[o.used : o.used+n]
	if last := len(o.pieces) - 1; o.tail {
		o.pieces[last] = o.pieces[last][:len(o.pieces[last])+n]
	} else {
		o.pieces = append(o.pieces, b)
	}
	o.used, o.bytes, o.tail = o.used+n, o.bytes+n, true
	return b, nil
}

// data adds b, by reference when that is worth it.
func (o *output) data(b []byte) error {
	if len(b) < o.copyBelow {
		to, err := o.room(len(b))
		copy(to, b)
		return err
	}
	for len(b) > 0 {
		if o.bytes >= maxFlush || len(o.pieces) >= maxPieces {
			if err := o.flush(); err != nil {
				return err
			}
		}
		n := min(len(b), maxFlush-o.bytes)
		o.pieces, o.tail = append(o.pieces, b[:n:n]), false
		o.bytes += n
		b = b[n:]
	}
	return nil
}

// flush sends what was gathered, if the unit still may answer.
func (o *output) flush() error {
	if o.bytes == 0 {
		return nil
	}
	c := o.c
	if !c.exp.mayAnswer() {
		c.kill("unit may not answer")
		return target.ErrFenced
	}
	if c.dead.Load() {
		return net.ErrClosed
	}
	if err := c.raw.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout)); err != nil {
		return err
	}
	o.vec = o.pieces
	_, err := o.vec.WriteTo(c.nc)
	clear(o.pieces)
	o.pieces, o.vec = o.pieces[:0], nil
	o.used, o.bytes, o.tail = 0, 0, false
	return err
}

// end gives the arena back, after a drain.
func (o *output) end() {
	clear(o.pieces)
	o.pieces, o.used, o.bytes, o.tail = o.pieces[:0], 0, 0, false
	o.arena.Release()
	o.arena = nil
}
