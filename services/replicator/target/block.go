package target

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// prepRange reads the block range of a CDB and checks that it lies within the unit.
func prepRange(t *task) *iscsi.Sense {
	t.lba, t.blocks, _ = iscsi.Range(t.cmd.CDB)
	end := t.lun.blocks.Load()
	if t.lba > end || uint64(t.blocks) > end-t.lba || t.lba == end && t.blocks > 0 {
		return illegal(iscsi.ASCLBAOutOfRange)
	}
	return nil
}

// prepTransfer checks a range whose blocks are transferred: no protection information, no more than Block Limits says.
func prepTransfer(t *task) *iscsi.Sense {
	if t.cmd.CDB[0]>>5 != 0 && t.cmd.CDB[1]&0xe0 != 0 {
		return invalidField(1)
	}
	if s := prepRange(t); s != nil {
		return s
	}
	if t.blocks > maxTransfer/BlockSize {
		return invalidField(10)
	}
	return nil
}

func prepRead(t *task) *iscsi.Sense { return prepTransfer(t) }

func prepWrite(t *task) *iscsi.Sense {
	if s := prepTransfer(t); s != nil {
		return s
	}
	t.outLen = int(t.blocks) * BlockSize
	return t.writable()
}

func (t *task) writable() *iscsi.Sense {
	if t.lun.swp.Load() || t.lun.info.ReadOnly {
		return &iscsi.Sense{Key: iscsi.SenseDataProtect, ASC: iscsi.ASCWriteProtected}
	}
	return nil
}

func (t *task) off() int64 { return int64(t.lba) * BlockSize }
func (t *task) len() int64 { return int64(t.blocks) * BlockSize }
func (t *task) fua() bool  { return t.cmd.CDB[0]>>5 != 0 && t.cmd.CDB[1]&iscsi.BitFUA != 0 }

// readBuffer takes memory for n bytes, or answers TASK SET FULL.
func (t *task) readBuffer(n int) ([]byte, bool) {
	buf, ok := t.alloc(n)
	if !ok {
		t.status = iscsi.StatusTaskSetFull
		t.finish()
		return nil, false
	}
	t.inBuf = buf
	return buf.Bytes(n), true
}

func read(t *task) {
	n := int(t.len())
	if n == 0 {
		t.finish()
		return
	}
	data, ok := t.readBuffer(n)
	if !ok {
		return
	}
	t.in = data
	t.submit(Command{Op: OpRead, Off: t.off(), Len: int64(n), Data: data}, nil)
}

// whole is the data that came, cut to whole blocks: an initiator that announced less than its CDB asks for gets the
// blocks it sent written, and a residual.
func (t *task) whole() []byte { return t.data[:len(t.data)&^(BlockSize-1)] }

func write(t *task) {
	data := t.whole()
	if len(data) == 0 {
		t.finish()
		return
	}
	t.submit(Command{Op: OpWrite, Off: t.off(), Len: int64(len(data)), Data: data, FUA: t.fua()}, nil)
}

// byteCheck is the BYTCHK field; only 0 (the medium is read) and 1 (and compared with the data sent) are offered.
func (t *task) byteCheck() (byte, *iscsi.Sense) {
	b := t.cmd.CDB[1] >> 1 & 3
	if b > 1 {
		return 0, invalidField(1)
	}
	return b, nil
}

func prepWriteVerify(t *task) *iscsi.Sense {
	if _, s := t.byteCheck(); s != nil {
		return s
	}
	return prepWrite(t)
}

// writeVerify writes through to the medium, reads back, and compares if asked to.
func writeVerify(t *task) {
	data := t.whole()
	if len(data) == 0 {
		t.finish()
		return
	}
	compare, _ := t.byteCheck()
	t.submit(Command{Op: OpWrite, Off: t.off(), Len: int64(len(data)), Data: data, FUA: true}, func(err error) {
		if err != nil {
			t.complete(err)
			return
		}
		var with []byte
		if compare == 1 {
			with = data
		}
		t.readBack(t.off(), int64(len(data)), with)
	})
}

func prepVerify(t *task) *iscsi.Sense {
	compare, s := t.byteCheck()
	if s != nil {
		return s
	}
	if compare == 0 {
		if t.cmd.CDB[1]&0xe0 != 0 {
			return invalidField(1)
		}
		return prepRange(t)
	}
	if s := prepTransfer(t); s != nil {
		return s
	}
	t.outLen = int(t.blocks) * BlockSize
	return nil
}

func verify(t *task) {
	if t.outLen > 0 {
		data := t.whole()
		t.readBack(t.off(), int64(len(data)), data)
		return
	}
	if t.len() > 1<<20 {
		go t.readBack(t.off(), t.len(), nil) // the reader has other commands to take meanwhile
		return
	}
	t.readBack(t.off(), t.len(), nil)
}

// readBack reads a range in parts and compares it with want, when given. A unit that answers at once is a turn of the loop,
// not a deeper call: a range may have millions of parts.
func (t *task) readBack(off, n int64, want []byte) {
	const part = 1 << 20
	for n > 0 && !t.isAborted() {
		if t.inBuf == nil {
			if _, ok := t.readBuffer(int(min(n, part))); !ok {
				return
			}
		}
		got := t.inBuf.Bytes(int(min(n, part)))
		at := off
		off, n = off+int64(len(got)), n-int64(len(got))
		var ended atomic.Bool // by the one of the two that comes first: the answer, or the return of submit
		var failed error
		t.submit(Command{Op: OpRead, Off: at, Len: int64(len(got)), Data: got}, func(err error) {
			if err == nil && want != nil {
				if d := Differs(got, want[:len(got)]); d >= 0 {
					err = &MiscompareError{Offset: at - t.off() + int64(d)}
				}
				want = want[len(got):]
			}
			failed = err
			if ended.CompareAndSwap(false, true) {
				return // the loop goes on
			}
			t.readOn(off, n, want, err)
		})
		if ended.CompareAndSwap(false, true) {
			return // the answer goes on
		}
		if failed != nil {
			t.complete(failed)
			return
		}
	}
	t.finish()
}

func (t *task) readOn(off, n int64, want []byte, err error) {
	if err != nil {
		t.complete(err)
		return
	}
	t.readBack(off, n, want)
}

func (t *task) isAborted() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.aborted || t.s.conn.dead.Load() // while the reader is in a loop, nobody marks the tasks of a dead connection
}

func flush(t *task) { t.submit(Command{Op: OpFlush}, nil) }

func prepCompareAndWrite(t *task) *iscsi.Sense {
	if s := prepTransfer(t); s != nil {
		return s
	}
	t.outLen = 2 * int(t.blocks) * BlockSize
	if t.edtl(t.cmd.Write) != t.outLen { // neither half may be guessed
		return invalidField(13)
	}
	return t.writable()
}

func compareAndWrite(t *task) {
	n := int(t.len())
	if n == 0 {
		t.finish()
		return
	}
	t.submit(Command{Op: OpCompareAndWrite, Off: t.off(), Len: int64(n), Compare: t.data[:n], Data: t.data[n : 2*n], FUA: t.fua()}, nil)
}

// orWrite reads, ORs and stores by compare and write, which is atomic in the unit; another writer in between makes it
// start again, a bounded number of times.
func orWrite(t *task) { orWriteTry(t, 64) }

func orWriteTry(t *task, tries int) {
	data := t.whole()
	if len(data) == 0 || t.isAborted() {
		t.finish()
		return
	}
	if t.inBuf == nil {
		if _, ok := t.readBuffer(2 * len(data)); !ok {
			return
		}
	}
	both := t.inBuf.Bytes(2 * len(data))
	old, merged := both[:len(data)], both[len(data):]
	t.submit(Command{Op: OpRead, Off: t.off(), Len: int64(len(data)), Data: old}, func(err error) {
		if err != nil {
			t.complete(err)
			return
		}
		orBytes(merged, old, data)
		t.submit(Command{Op: OpCompareAndWrite, Off: t.off(), Len: int64(len(data)), Compare: old, Data: merged, FUA: t.fua()}, func(err error) {
			if _, lost := errors.AsType[*MiscompareError](err); lost && tries > 0 {
				orWriteTry(t, tries-1)
				return
			}
			t.complete(err)
		})
	})
}

// orBytes is dst = a | b, for whole blocks.
func orBytes(dst, a, b []byte) {
	le := binary.LittleEndian
	for i := 0; i < len(dst); i += 8 {
		le.PutUint64(dst[i:], le.Uint64(a[i:])|le.Uint64(b[i:]))
	}
}

func readCapacity10(t *task) {
	if t.cmd.CDB[8]&1 == 0 && binary.BigEndian.Uint32(t.cmd.CDB[2:]) != 0 {
		t.fail(*invalidField(2))
		return
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint32(b, uint32(min(t.lun.blocks.Load()-1, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], BlockSize)
	t.answer(b, len(b))
}

func readCapacity16(t *task) {
	b := make([]byte, 32)
	binary.BigEndian.PutUint64(b, t.lun.blocks.Load()-1)
	binary.BigEndian.PutUint32(b[8:], BlockSize)
	if t.lun.info.ThinProvisioned {
		b[14] = 0xc0 // LBPME, LBPRZ
	}
	t.answer(b, int(min(binary.BigEndian.Uint32(t.cmd.CDB[10:]), 1<<16)))
}

// readDefects reports empty lists.
func readDefects(t *task) {
	cdb := &t.cmd.CDB
	if cdb[0] == iscsi.ReadDefectData10 {
		t.answer([]byte{0, cdb[2] & 0x1f, 0, 0}, int(binary.BigEndian.Uint16(cdb[7:])))
		return
	}
	t.answer([]byte{0, cdb[1] & 0x1f, 0, 0, 0, 0, 0, 0}, int(min(binary.BigEndian.Uint32(cdb[6:]), 1<<16)))
}
