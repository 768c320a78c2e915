package workload

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

// bootLookahead is how far beyond the end of a log a boot searches for records that should not be there. A check of a
// promoted disk searches all of it.
const bootLookahead = 4 << 20

// writer is the log on all of a VM's volumes.
type writer struct {
	spec  Spec
	disks []Disk
	heads []applog.Header
	last  []applog.Hash // of record seq on each volume
	seq   uint64        // the last record on every volume
	wall  func() time.Time
}

// openLog scans the log on every volume, creates it on blank ones, completes an append that was cut between volumes, and
// begins a new generation. Errors wrap ErrBrokenLog, domain.ErrStaleEpoch, or those of the disks.
func openLog(ctx context.Context, spec Spec, disks []Disk, wall func() time.Time) (*writer, error) {
	if len(disks) == 0 {
		return nil, fmt.Errorf("open log of VM %s: no disk: %w", spec.VM, domain.ErrInvalid)
	}
	w := &writer{spec: spec, disks: disks, heads: make([]applog.Header, len(disks)), last: make([]applog.Hash, len(disks)), wall: wall}
	reports := make([]applog.Report, len(disks))
	for i, d := range disks {
		r, err := w.examine(i, d)
		if err != nil {
			return nil, fmt.Errorf("open log of VM %s on disk %d: %w", spec.VM, i, err)
		}
		reports[i], w.heads[i], w.last[i] = r, r.Header, r.LastHash
	}
	if err := applog.CheckGroup(reports); err != nil {
		return nil, fmt.Errorf("open log of VM %s: %w: %w", spec.VM, ErrBrokenLog, err)
	}
	w.seq = reports[len(reports)-1].LastSeq
	if err := w.begin(ctx); err != nil {
		return nil, fmt.Errorf("open log of VM %s: %w", spec.VM, err)
	}
	if err := w.complete(ctx, reports); err != nil {
		return nil, fmt.Errorf("complete the last append of VM %s: %w", spec.VM, err)
	}
	return w, nil
}

// examine scans one volume; a blank one has the report of an empty log.
func (w *writer) examine(i int, d Disk) (applog.Report, error) {
	r, err := applog.ScanWith(d, applog.Options{Lookahead: bootLookahead})
	if errors.Is(err, applog.ErrNotLog) {
		h, err := w.create(i, d)
		return applog.Report{Header: h, PrefixOK: true}, err
	}
	switch {
	case errors.Is(err, applog.ErrCorrupt):
		return r, fmt.Errorf("%w: %w", ErrBrokenLog, err)
	case err != nil:
		return r, err
	case !r.PrefixOK:
		return r, fmt.Errorf("%w: %s", ErrBrokenLog, r.Problem)
	case r.Header.VM != w.spec.VM || int(r.Header.Volume) != i:
		return r, fmt.Errorf("%w: it is disk %d of VM %s", ErrBrokenLog, r.Header.Volume, r.Header.VM)
	case r.Header.RecordSize%d.BlockSize() != 0:
		return r, fmt.Errorf("%w: records of %d bytes on blocks of %d", ErrBrokenLog, r.Header.RecordSize, d.BlockSize())
	}
	if n := len(r.Spans); n > 0 && r.Spans[n-1].Epoch > w.spec.Epoch {
		return r, fmt.Errorf("%w: the log was written under epoch %s, the VM starts under %s", domain.ErrStaleEpoch, r.Spans[n-1].Epoch, w.spec.Epoch)
	}
	return r, nil
}

func (w *writer) create(i int, d Disk) (applog.Header, error) {
	size := w.spec.RecordSize
	if size == 0 {
		size = applog.MinRecordSize
		for _, d := range w.disks {
			size = max(size, d.BlockSize())
		}
	}
	h := applog.Header{
		RecordSize: size, Capacity: applog.CapacityFor(d.Size(), size), VM: w.spec.VM, Volume: uint16(i), CreatedNS: w.wall().UnixNano(),
	}
	rand.Read(h.LogID[:]) // never fails since Go 1.24
	if !applog.ValidRecordSize(size) || size%d.BlockSize() != 0 || h.Capacity == 0 {
		return h, fmt.Errorf("create a log of %d-byte records on a disk of %d bytes, blocks of %d: %w", size, d.Size(), d.BlockSize(), domain.ErrInvalid)
	}
	return h, nil
}

// begin writes the header of the next generation on every volume.
func (w *writer) begin(ctx context.Context) error {
	for i, d := range w.disks {
		w.heads[i].Generation++
		b, err := w.heads[i].Encode()
		if err != nil {
			return err
		}
		if pad := max(len(b), d.BlockSize()); pad > len(b) {
			b = append(b, make([]byte, pad-len(b))...)
		}
		if err := d.WriteDurable(ctx, b, w.heads[i].Slot()); err != nil {
			return fmt.Errorf("write the header of disk %d: %w", i, err)
		}
	}
	return nil
}

// complete writes the first volume's last record to the volumes that a crash kept from it.
func (w *writer) complete(ctx context.Context, reports []applog.Report) error {
	first := reports[0].LastSeq
	if first == w.seq {
		return nil
	}
	b := make([]byte, w.heads[0].RecordSize)
	if _, err := w.disks[0].ReadAt(b, w.heads[0].Offset(first)); err != nil {
		return fmt.Errorf("read record %d: %w", first, err)
	}
	rec, _, err := applog.DecodeRecord(b)
	if err != nil {
		return fmt.Errorf("read record %d: %w", first, err)
	}
	for i := range w.disks {
		if reports[i].LastSeq == first {
			continue
		}
		if _, err := w.write(ctx, i, w.record(first, rec.Payload, true)); err != nil {
			return err
		}
	}
	w.seq = first
	return nil
}

func (w *writer) record(seq uint64, payload []byte, repaired bool) applog.Record {
	return applog.Record{
		Seq: seq, Epoch: w.spec.Epoch, Site: w.spec.Site, VM: w.spec.VM, Instance: w.spec.Instance, Payload: payload,
		Repaired: repaired, WallNS: w.wall().UnixNano(), BootNS: int64(clock.Now()),
	}
}

// append makes one record durable on every volume in turn. After an error other than ErrFull and ErrPayload what is on
// the disks is unknown, and the writer must not be used again.
func (w *writer) append(ctx context.Context, payload []byte) (uint64, applog.Hash, error) {
	seq := w.seq + 1
	for i, h := range w.heads {
		if seq > h.Capacity {
			return 0, applog.Hash{}, fmt.Errorf("append record %d to disk %d of %d records: %w", seq, i, h.Capacity, ErrFull)
		}
		if limit := applog.MaxPayload(h.RecordSize); len(payload) > limit {
			return 0, applog.Hash{}, fmt.Errorf("append %d bytes to disk %d, at most %d: %w", len(payload), i, limit, ErrPayload)
		}
	}
	rec := w.record(seq, payload, false)
	var first applog.Hash
	for i := range w.disks {
		hash, err := w.write(ctx, i, rec)
		if err != nil {
			return 0, applog.Hash{}, err
		}
		if i == 0 {
			first = hash
		}
	}
	w.seq = seq
	return seq, first, nil
}

func (w *writer) write(ctx context.Context, i int, rec applog.Record) (applog.Hash, error) {
	h := w.heads[i]
	rec.Prev, rec.LogID, rec.Volume = w.last[i], h.LogID, h.Volume
	b, hash, err := rec.Encode(h.RecordSize)
	if err != nil {
		return applog.Hash{}, err
	}
	if err := w.disks[i].WriteDurable(ctx, b, h.Offset(rec.Seq)); err != nil {
		return applog.Hash{}, fmt.Errorf("write record %d to disk %d: %w", rec.Seq, i, err)
	}
	w.last[i] = hash
	return hash, nil
}
