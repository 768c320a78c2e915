package iscsi

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	readBuffer  = 256 << 10
	writeBuffer = 260 << 10 // two PDUs with 128 KiB of data, or one with 256
	smallBuffer = 8 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest is the CRC32C of RFC 7143 section 13.1 over the parts in turn; on the wire it stands in little-endian order.
func Digest(parts ...[]byte) uint32 {
	var c uint32
	for _, b := range parts {
		c = crc32.Update(c, castagnoli, b)
	}
	return c
}

// Reader reads PDUs from a stream. It is for one goroutine.
type Reader struct {
	src                      io.Reader
	r                        *bufio.Reader
	small                    bool
	pool                     *Pool
	maxData                  int
	headerDigest, dataDigest bool
	scratch                  [4]byte
}

// NewReader reads from r; no data segment may be longer than maxData bytes. A nil pool makes one.
func NewReader(r io.Reader, pool *Pool, maxData int) *Reader {
	if pool == nil {
		pool = new(Pool)
	}
	return &Reader{src: r, r: bufio.NewReaderSize(r, readBuffer), pool: pool, maxData: maxData}
}

// NewSmallReader is NewReader with little memory, until more is there to be read at once.
func NewSmallReader(r io.Reader, pool *Pool, maxData int) *Reader {
	return &Reader{src: r, r: bufio.NewReaderSize(r, smallBuffer), pool: pool, maxData: maxData, small: true}
}

// grow gives the reader the memory that NewReader has from the start. What it read ahead stays first.
func (r *Reader) grow() {
	ahead, _ := r.r.Peek(r.r.Buffered()) // all of it is there
	r.r = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(ahead)), r.src), readBuffer)
	r.small = false
}

// Await waits until something of the next PDU is there, and takes nothing. It returns the stream's error when that comes first.
func (r *Reader) Await() error {
	_, err := r.r.Peek(1)
	return err
}

// Small reports whether the reader has as little memory as NewSmallReader gives it.
func (r *Reader) Small() bool { return r.small }

// Shrink makes the reader one of NewSmallReader again, after Await has failed: then nothing was read ahead.
func (r *Reader) Shrink() {
	if !r.small && r.r.Buffered() == 0 {
		r.r, r.small = bufio.NewReaderSize(r.src, smallBuffer), true
	}
}

// SetDigests turns digests on or off from the next PDU on.
func (r *Reader) SetDigests(header, data bool) { r.headerDigest, r.dataDigest = header, data }

// SetMaxData changes the limit of a data segment, in bytes.
func (r *Reader) SetMaxData(n int) { r.maxData = n }

// Next reads one whole PDU into p, which it resets first. Data comes from the pool: p.Release or p.Take it.
// Errors: io.EOF at a clean end, io.ErrUnexpectedEOF within a PDU, ErrTooLong, ErrHeaderDigest, ErrDataDigest (the PDU
// is there and the stream still in step), and those of the stream.
func (r *Reader) Next(p *PDU) error {
	if err := r.Header(p); err != nil {
		return err
	}
	return r.Body(p, nil)
}

// Header reads the header segments of the next PDU into p and checks their lengths and digest. Body must follow.
func (r *Reader) Header(p *PDU) error {
	p.Release()
	p.AHS = p.AHS[:0]
	if _, err := io.ReadFull(r.r, p.BHS[:]); err != nil {
		return err
	}
	if r.small && r.r.Buffered() > smallBuffer/2 {
		r.grow()
	}
	if n := p.DataLen(); n > r.maxData {
		return fmt.Errorf("%v with a data segment of %d bytes, limit %d: %w", p.Opcode(), n, r.maxData, ErrTooLong)
	}
	if n := p.AHSLen(); n > 0 {
		if cap(p.AHS) < n {
			p.AHS = make([]byte, n)
		}
		p.AHS = p.AHS[:n]
		if err := r.full(p.AHS); err != nil {
			return err
		}
	}
	if r.headerDigest {
		if err := r.full(r.scratch[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint32(r.scratch[:]) != Digest(p.BHS[:], p.AHS) {
			return ErrHeaderDigest
		}
	}
	return nil
}

// Body reads the data segment that belongs to p's header: into dst when its length fits, else into a pooled buffer.
// p.Data is the data without padding, nil when there is none.
func (r *Reader) Body(p *PDU, dst []byte) error {
	n := p.DataLen()
	if n == 0 {
		return nil
	}
	if len(dst) >= n {
		p.Data = dst[:n]
	} else {
		p.buf = r.pool.Get(n)
		p.Data = p.buf.Bytes(n)
	}
	if err := r.full(p.Data); err != nil {
		return err
	}
	pad := -n & 3
	if err := r.full(r.scratch[:pad]); err != nil {
		return err
	}
	if !r.dataDigest {
		return nil
	}
	sum := Digest(p.Data, r.scratch[:pad])
	if err := r.full(r.scratch[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(r.scratch[:]) != sum {
		return fmt.Errorf("%v: %w", p.Opcode(), ErrDataDigest)
	}
	return nil
}

func (r *Reader) full(b []byte) error {
	_, err := io.ReadFull(r.r, b)
	if err == io.EOF && len(b) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Waiting reports whether a complete PDU is in memory already, so that Next would not wait for the network. A PDU
// larger than the read buffer never is.
func (r *Reader) Waiting() bool {
	if r.r.Buffered() < BHSLen {
		return false
	}
	h, err := r.r.Peek(8)
	if err != nil {
		return false
	}
	n := int(h[5])<<16 | int(h[6])<<8 | int(h[7])
	total := BHSLen + int(h[4])*4 + (n+3)&^3
	if r.headerDigest {
		total += digestLen
	}
	if r.dataDigest && n > 0 {
		total += digestLen
	}
	return r.r.Buffered() >= total
}

// Writer writes PDUs to a stream through a buffer. It is for one goroutine at a time: the owner's lock that gives
// StatSN or CmdSN is the one that guards it.
type Writer struct {
	dst                      io.Writer
	buf                      []byte
	err                      error // of the stream, for good
	headerDigest, dataDigest bool
	scratch                  [4]byte
}

// NewWriter writes to w. It takes memory as it needs it.
func NewWriter(w io.Writer) *Writer { return &Writer{dst: w} }

// Shrink gives back memory that is not in use.
func (w *Writer) Shrink() {
	if len(w.buf) == 0 && cap(w.buf) > smallBuffer {
		w.buf = nil
	}
}

// SetDigests turns digests on or off from the next PDU on.
func (w *Writer) SetDigests(header, data bool) { w.headerDigest, w.dataDigest = header, data }

// Write puts p into the buffer, filling in its length fields, padding and digests. Flush sends it. p.Data is not kept.
func (w *Writer) Write(p *PDU) error {
	if len(p.Data) > MaxDataLen || len(p.AHS) > MaxAHSLen || len(p.AHS)%4 != 0 {
		return fmt.Errorf("write %v: %w", p.Opcode(), ErrTooLong)
	}
	p.setLengths()
	w.add(p.BHS[:])
	w.add(p.AHS)
	if w.headerDigest {
		w.put32(Digest(p.BHS[:], p.AHS))
	}
	if len(p.Data) > 0 {
		w.data(p.Data)
	}
	return w.err
}

// add puts bytes into the buffer, and sends what is in the way.
func (w *Writer) add(b []byte) {
	need := len(w.buf) + len(b)
	if need > writeBuffer {
		w.send()
		need = len(b)
	}
	if need > cap(w.buf) {
		grown := make([]byte, len(w.buf), min(max(2*cap(w.buf), need, smallBuffer), max(writeBuffer, need)))
		copy(grown, w.buf)
		w.buf = grown
	}
	w.buf = append(w.buf, b...)
}

func (w *Writer) data(b []byte) {
	pad := w.scratch[:-len(b)&3]
	clear(pad)
	w.add(b)
	w.add(pad)
	if w.dataDigest {
		w.put32(Digest(b, pad))
	}
}

func (w *Writer) put32(v uint32) {
	binary.LittleEndian.PutUint32(w.scratch[:], v)
	w.add(w.scratch[:])
}

// send writes the buffer to the stream.
func (w *Writer) send() {
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.dst.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

// Flush sends what is in the buffer.
func (w *Writer) Flush() error {
	w.send()
	return w.err
}

// Buffered is the number of bytes that wait for Flush.
func (w *Writer) Buffered() int { return len(w.buf) }
