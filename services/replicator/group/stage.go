package group

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// A stage is what a resync has sent so far: a file of records in the order they arrived, beside the old image, which
// stays as it is. The marker makes the records the new image: from then on they are applied, again after a crash, until
// the journal has been reset to where they end; then the stage goes.
//
// A copy without any change has no old image that would have to stay: what is sent of its volumes' blocks goes into them at once,
// and needs no room twice. Before the first of it the copy is marked, durably, as one with a seed: it is not promoted, and the next
// resync compares it by hashes, until one was installed. The frames are staged as ever, and so is what is of other volumes.
type stage struct {
	epoch   domain.Epoch
	session uint64

	mu sync.Mutex
	f  *os.File
	w  *bufio.Writer

	resumed *resumed
	// What is sent counts volumes by the primary's table: it has these sizes, and begins with so many of the copy's volumes. The rest
	// of it is new here.
	sizes  []int64
	shared int

	direct []*volume    // of a copy without any change: its volumes; nil: everything is staged
	mark   func() error // marks the copy; once, before the first write
	wants  atomic.Int64 // the room that the primary was told it takes; 0: nobody asked
	took   atomic.Int64 // what came since of it, in bytes
}

// Kinds of record.
const (
	recordData  = 1 // payload for a range of a volume
	recordZero  = 2 // a range of a volume reads as zeroes
	recordFrame = 3 // a frame of the journal
)

// record is a stretch of a resync. On the wire and in the stage it is 24 bytes of header and then the payload:
// kind u8, packing u8, volume u16, CRC32C of the payload u32, offset u64, length u64. The packing is 0 in the stage; on the wire
// 1 means that what follows is an S2 block of the payload. Checksum and length are those of the payload itself.
type record struct {
	kind    byte
	volume  uint16
	off     int64
	length  int64
	payload []byte
	packed  []byte // the payload as it is sent, nil: as it is
}

const (
	recordHeader   = 24
	maxRecordBytes = journal.MaxFrameBytes
	stageFile      = "data"
	stageMarker    = "commit.json"
	stageTable     = "volumes.json"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r record) append(b []byte) []byte {
	packing := byte(0)
	if r.packed != nil {
		packing = packedS2
	}
	b = append(b, r.kind, packing)
	b = binary.LittleEndian.AppendUint16(b, r.volume)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(r.payload, castagnoli))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.off))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.length))
	return append(b, r.sent()...)
}

// sent is the payload as it is sent.
func (r record) sent() []byte {
	if r.packed != nil {
		return r.packed
	}
	return r.payload
}

const packedS2 = 1

// unpackRecord makes a record of the wire one of the stage. It takes no more memory than a record may have.
func unpackRecord(b []byte) ([]byte, error) {
	if len(b) < recordHeader || b[1] != packedS2 {
		return b, nil // what is wrong with it, parseRecord tells
	}
	_, n, _, err := parseRecordHeader(b)
	if err != nil {
		return nil, err
	}
	payload, err := transport.Inflate(b[recordHeader:], n, maxRecordBytes)
	if err != nil {
		return nil, fmt.Errorf("resync record: %w", err)
	}
	out := append(make([]byte, 0, recordHeader+len(payload)), b[:recordHeader]...)
	out[1] = 0
	return append(out, payload...), nil
}

// parseRecordHeader reads a header and says how long the payload is.
func parseRecordHeader(b []byte) (r record, payload int64, crc uint32, err error) {
	if len(b) < recordHeader {
		return r, 0, 0, fmt.Errorf("resync record of %d bytes: %w", len(b), domain.ErrInvalid)
	}
	r = record{kind: b[0], volume: binary.LittleEndian.Uint16(b[2:]), off: int64(binary.LittleEndian.Uint64(b[8:])),
		length: int64(binary.LittleEndian.Uint64(b[16:]))}
	payload = r.length
	if r.kind == recordZero {
		payload = 0
	}
	if r.kind < recordData || r.kind > recordFrame || r.off < 0 || r.length <= 0 || payload > maxRecordBytes || r.off > 1<<62 || r.length > 1<<62 {
		return r, 0, 0, fmt.Errorf("resync record of kind %d, %d bytes at %d: %w", r.kind, r.length, r.off, domain.ErrInvalid)
	}
	return r, payload, binary.LittleEndian.Uint32(b[4:]), nil
}

// parseRecord reads one whole record; sizes are those of the volumes.
func parseRecord(b []byte, sizes []int64) (record, error) {
	r, n, crc, err := parseRecordHeader(b)
	if err != nil {
		return r, err
	}
	if r.payload = b[recordHeader:]; int64(len(r.payload)) != n || crc32.Checksum(r.payload, castagnoli) != crc {
		return r, fmt.Errorf("resync record: payload damaged: %w", domain.ErrInvalid)
	}
	return r, r.check(sizes)
}

func (r record) check(sizes []int64) error {
	if r.kind != recordFrame && (int(r.volume) >= len(sizes) || r.off > sizes[r.volume]-r.length) {
		return fmt.Errorf("resync record: %d bytes at %d of volume %d: %w", r.length, r.off, r.volume, domain.ErrInvalid)
	}
	return nil
}

func (s *store) stageDir() string { return filepath.Join(s.dir, "stage") }

func (s *store) stagePath() string { return filepath.Join(s.stageDir(), stageFile) }

// beginStage opens the stage. A process that is killed loses at most what waits to be written, 64 KiB. What an earlier one holds whole, before its first frame, stays; frames of another resync do not.
func (s *store) beginStage(epoch domain.Epoch, session uint64, t slots.Table) (*stage, error) {
	if err := s.dropMarker(); err != nil {
		return nil, err
	}
	if err := s.countBy(t); err != nil {
		return nil, err
	}
	st := &stage{epoch: epoch, session: session, sizes: t.Sizes(), shared: s.slots().Shared(t)}
	f, err := os.OpenFile(s.stagePath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if s.last() == 0 && !s.hist.Recording() {
		st.direct = s.vols()[:st.shared]
		st.mark = sync.OnceValue(func() error { return s.remember(func(m *meta) { m.Seeded = true }) })
		err = f.Truncate(0) // what was staged before is older than what goes into the volumes from now on
	}
	var left *resumed
	if err == nil {
		left, err = leftInStage(f, st.sizes)
	}
	if err == nil {
		err = f.Truncate(left.bytes)
	}
	if err == nil {
		_, err = f.Seek(left.bytes, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	st.f, st.w, st.resumed = f, bufio.NewWriterSize(f, 64<<10), left
	return st, nil
}

// countBy makes the stage one whose records count volumes by a table. What it holds by another one goes.
func (s *store) countBy(t slots.Table) error {
	path := filepath.Join(s.stageDir(), stageTable)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var before slots.Table
	if err == nil && json.Unmarshal(b, &before) != nil || before.Shared(t) != len(before) {
		if err := s.discardStage(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.stageDir(), 0o700); err != nil {
		return err
	}
	if b, err = json.Marshal(t); err != nil {
		return err
	}
	return s.writeFile(path, b)
}

// add keeps one record, raw as it is encoded. Safe for concurrent use.
func (st *stage) add(raw []byte, r record) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.f == nil {
		return fmt.Errorf("resync: the stage is closed: %w", domain.ErrConflict)
	}
	if r.kind == recordData {
		st.took.Add(r.length)
	}
	if r.kind != recordFrame && int(r.volume) < len(st.direct) {
		if err := st.mark(); err != nil {
			return fmt.Errorf("resync: mark the copy: %w", err)
		}
		return r.put(st.direct[r.volume])
	}
	_, err := st.w.Write(raw)
	return err
}

// drop closes the stage; its folder stays until another begins.
func (st *stage) drop() {
	if st == nil {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.f != nil {
		_ = st.f.Close()
		st.f = nil
	}
}

// seal makes the records durable, and then the marker: the point of no return.
func (s *store) sealStage(st *stage, c api.ResyncCommit) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.f == nil {
		return fmt.Errorf("resync: the stage is closed: %w", domain.ErrConflict)
	}
	if err := errors.Join(st.w.Flush(), s.fails("stage flush"), st.f.Sync()); err != nil {
		return fmt.Errorf("resync: make the stage durable: %w", err)
	}
	if err := st.check(c); err != nil {
		return err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := durable.SyncDir(s.dir); err != nil {
		return err
	}
	return s.writeFile(filepath.Join(s.stageDir(), stageMarker), b)
}

// check reads the stage once and refuses it when the frames do not reach from the cut to the end without a gap.
func (st *stage) check(c api.ResyncCommit) error {
	at := c.Cut
	err := eachRecord(st.f, st.sizes, func(r record) error {
		if r.kind != recordFrame {
			return nil
		}
		fr, err := journal.Decode(r.payload)
		if err != nil {
			return err
		}
		if fr.FirstLSN > at+1 {
			return fmt.Errorf("resync: frames jump from LSN %d to %d: %w", at, fr.FirstLSN, domain.ErrInvalid)
		}
		at = max(at, fr.LastLSN)
		return nil
	})
	if err == nil && at != c.LSN {
		err = fmt.Errorf("resync: frames end at LSN %d, the commit says %d: %w", at, c.LSN, domain.ErrInvalid)
	}
	return err
}

// eachRecord reads the stage from its beginning.
func eachRecord(f *os.File, sizes []int64, visit func(record) error) error {
	return readRecords(bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 1<<20), sizes, visit)
}

// readRecords reads records one after the other. What visit is given lasts until it returns.
func readRecords(r *bufio.Reader, sizes []int64, visit func(record) error) error {
	var buf []byte
	for {
		var h [recordHeader]byte
		if _, err := io.ReadFull(r, h[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		_, n, _, err := parseRecordHeader(h[:])
		if err != nil {
			return err
		}
		buf = append(buf[:0], h[:]...)
		buf = append(buf, make([]byte, n)...)
		if _, err := io.ReadFull(r, buf[recordHeader:]); err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		rec, err := parseRecord(buf, sizes)
		if err != nil {
			return err
		}
		if err := visit(rec); err != nil {
			return err
		}
	}
}

// redoStage finishes a resync that was committed before a crash. What one that was not had staged stays for the next.
func (s *store) redoStage() error {
	b, err := os.ReadFile(filepath.Join(s.stageDir(), stageMarker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var c api.ResyncCommit
	if err := json.Unmarshal(b, &c); err != nil {
		return fmt.Errorf("read the resync's marker: %w", err)
	}
	return s.applyStage(c, func(string) error { return nil })
}

// applyStage brings a sealed stage to the volumes, then resets the journal to its end, then removes the stage. Every
// part may be done again.
func (s *store) applyStage(c api.ResyncCommit, failpoint func(string) error) error {
	f, err := os.Open(s.stagePath())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	next := s.table()
	if len(c.Table) > 0 { // an older primary has none
		if next, err = s.prepare(c.Table); err != nil {
			return fmt.Errorf("apply the stage of group %s: %w", s.group.ID, err)
		}
		defer func() { s.abandon(next) }()
	}
	b := stageBatch{s: s, c: c, next: next, shared: s.slots().Shared(next.slots), failpoint: failpoint}
	if err := eachRecord(f, next.sizes, b.add); err != nil {
		return fmt.Errorf("apply the stage of group %s: %w", s.group.ID, err)
	}
	if err := b.flush(); err != nil {
		return fmt.Errorf("apply the stage of group %s: %w", s.group.ID, err)
	}
	for _, v := range next.vols {
		if err := v.Sync(); err != nil {
			return fmt.Errorf("apply the stage of group %s: flush: %w", s.group.ID, err)
		}
	}
	if err := failpoint("stage applied"); err != nil {
		return err
	}
	if err := s.reset(c.LSN, c.Lineage); err != nil {
		return fmt.Errorf("apply the stage of group %s: %w", s.group.ID, err)
	}
	if err := failpoint("stage reset, old volumes"); err != nil {
		return err
	}
	if next != s.table() { // only now: a start in between redoes no frame that means other volumes
		if err := s.turnTo(next); err != nil {
			return fmt.Errorf("apply the stage of group %s: %w", s.group.ID, err)
		}
	}
	if err := s.remember(func(m *meta) { m.Seeded = false }); err != nil {
		return err
	}
	if err := failpoint("stage reset"); err != nil {
		return err
	}
	if err := s.renewHistory(); err != nil {
		return err
	}
	if err := s.dropAllBitmaps(); err != nil {
		return err
	}
	if err := s.dropMarker(); err != nil { // first: without it the rest means nothing, with it a part of the rest is no stage
		return err
	}
	if err := failpoint("stage unmarked"); err != nil {
		return err
	}
	return removeDurably(s.stageDir())
}

func (s *store) dropMarker() error { return removeDurably(filepath.Join(s.stageDir(), stageMarker)) }

// discardStage removes a stage that is not to become the image.
func (s *store) discardStage() error {
	if err := s.dropMarker(); err != nil {
		return err
	}
	return removeDurably(s.stageDir())
}

// stageBatch gathers records, so that what they overwrite is made durable for many at once.
type stageBatch struct {
	s         *store
	c         api.ResyncCommit
	next      *table // what the copy will have
	shared    int    // so many of its volumes are there already
	failpoint func(string) error
	records   []record
	ranges    []history.Range
	bytes     int
}

const stageBatchBytes = 8 << 20

func (b *stageBatch) add(r record) error {
	if !b.s.hist.Recording() {
		return errors.Join(b.failpoint("stage record"), b.apply(r))
	}
	r.payload = bytes.Clone(r.payload) // the next record takes its place
	if err := b.note(r); err != nil {
		return err
	}
	b.records = append(b.records, r)
	if b.bytes += len(r.payload) + recordHeader; b.bytes < stageBatchBytes {
		return nil
	}
	return b.flush()
}

// note keeps which ranges a record changes.
func (b *stageBatch) note(r record) error {
	switch r.kind {
	case recordData:
		b.overwrites(history.Range{Volume: int(r.volume), Off: r.off, Len: r.length, Data: r.payload})
		return nil
	case recordZero:
		b.overwrites(history.Range{Volume: int(r.volume), Off: r.off, Len: r.length, Zero: true})
		return nil
	}
	f, err := journal.Decode(r.payload)
	if err != nil {
		return err
	}
	for i, e := range f.Entries {
		if x, ok := overwrites(e); ok && f.FirstLSN+domain.LSN(i) > b.c.Cut {
			b.overwrites(x)
		}
	}
	return nil
}

// overwrites notes a range, if the past has its volume.
func (b *stageBatch) overwrites(r history.Range) {
	if r.Volume < b.shared {
		b.ranges = append(b.ranges, r)
	}
}

func (b *stageBatch) flush() error {
	if err := b.s.hist.Record(b.ranges); err != nil {
		return err
	}
	for _, r := range b.records {
		if err := errors.Join(b.failpoint("stage record"), b.apply(r)); err != nil {
			return err
		}
	}
	b.records, b.ranges, b.bytes = nil, nil, 0
	return nil
}

func (b *stageBatch) apply(r record) error {
	if r.kind != recordFrame {
		return r.put(b.next.vols[r.volume])
	}
	f, err := journal.Decode(r.payload)
	if err != nil {
		return err
	}
	for i, e := range f.Entries {
		if f.FirstLSN+domain.LSN(i) <= b.c.Cut {
			continue
		}
		if err := b.next.apply(e); err != nil {
			return err
		}
	}
	return nil
}

// put brings a record that is no frame to its volume.
func (r record) put(v *volume) error {
	if r.kind == recordZero {
		return v.Unmap(r.off, r.length)
	}
	_, err := v.WriteAt(r.payload, r.off)
	return err
}

func (t *table) apply(e journal.Entry) error {
	if e.Op == journal.OpFlush || e.Op == journal.OpMarker {
		return nil
	}
	if int(e.Volume) >= len(t.vols) {
		return fmt.Errorf("volume %d of %d: %w", e.Volume, len(t.vols), domain.ErrNotFound)
	}
	v := t.vols[e.Volume]
	switch e.Op {
	case journal.OpZero:
		return v.Zero(e.Off, e.Len)
	case journal.OpUnmap:
		return v.Unmap(e.Off, e.Len)
	}
	_, err := v.WriteAt(e.Data, e.Off)
	return err
}
