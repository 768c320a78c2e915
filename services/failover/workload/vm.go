package workload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// VM is a running workload. Its methods may be called from any goroutine.
type VM struct {
	spec     Spec
	deps     Deps
	life     context.Context // power: its end stops every write and every acknowledgement
	cut      context.CancelFunc
	booted   time.Time
	firstSeq uint64
	failed   chan struct{} // closed when the VM can go on no more

	turn chan struct{} // holds one token: the right to append
	halt sync.Once
	log  *writer // guarded by turn

	mu     sync.Mutex
	last   uint64 // durable on every volume
	err    error  // why it failed
	frozen bool   // Freeze has the turn
}

// Ack is the answer to an append.
type Ack struct {
	Seq      uint64        `json:"seq"`
	VM       domain.VMID   `json:"vm"`
	Site     domain.SiteID `json:"site"`
	Instance string        `json:"instance"`
	Epoch    domain.Epoch  `json:"epoch"`
	ClockNS  int64         `json:"clock_ns"` // CLOCK_BOOTTIME of the machine it runs on
	WallNS   int64         `json:"wall_ns"`
	Hash     string        `json:"hash"`
}

// Status is what a VM says of itself.
type Status struct {
	VM       domain.VMID    `json:"vm"`
	Group    domain.GroupID `json:"group"`
	Site     domain.SiteID  `json:"site"`
	Host     domain.HostID  `json:"host"`
	Instance string         `json:"instance"`
	Epoch    domain.Epoch   `json:"epoch"`
	BootedAt time.Time      `json:"booted_at"`
	LastSeq  uint64         `json:"last_seq"`
	// FirstSeq is the first record this boot writes; the ones before it are from earlier boots.
	FirstSeq uint64 `json:"first_seq_of_instance"`
	Capacity uint64 `json:"capacity"` // records
	Error    string `json:"error,omitempty"`
}

// Digest identifies one record.
type Digest struct {
	Seq      uint64        `json:"seq"`
	Hash     string        `json:"hash"`
	Epoch    domain.Epoch  `json:"epoch"`
	Site     domain.SiteID `json:"site"`
	Instance string        `json:"instance"`
	WallNS   int64         `json:"wall_ns"`
	BootNS   int64         `json:"boot_ns"`
	Bytes    int           `json:"bytes"` // of payload
}

// Boot opens the log on the disks and makes the VM ready to serve until ctx ends. Errors wrap ErrBrokenLog,
// domain.ErrStaleEpoch, or are the gate's or the disks'.
func Boot(ctx context.Context, spec Spec, disks []Disk, deps Deps) (*VM, error) {
	deps = deps.withDefaults()
	if err := deps.Gate(); err != nil {
		return nil, fmt.Errorf("boot VM %s: %w", spec.VM, err)
	}
	w, err := openLog(ctx, spec, disks, deps.Wall)
	if err != nil {
		return nil, err
	}
	life, cut := context.WithCancel(ctx)
	v := &VM{
		spec: spec, deps: deps, life: life, cut: cut, booted: deps.Wall(), firstSeq: w.seq + 1, last: w.seq, log: w,
		failed: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	v.turn <- struct{}{}
	if err := deps.Ledger(v.line(ledger.KindStart, w.seq)); err != nil {
		cut()
		return nil, fmt.Errorf("boot VM %s: %w", spec.VM, err)
	}
	return v, nil
}

// Failed is closed when a disk error ended the VM; Err says which.
func (v *VM) Failed() <-chan struct{} { return v.failed }

// Err is why the VM failed, nil while it has not.
func (v *VM) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Halt cuts the VM's power: when it returns nothing is written or acknowledged any more.
func (v *VM) Halt() {
	v.cut()
	v.Thaw()
	v.halt.Do(func() { <-v.turn }) // for good
}

// Freeze lets no append begin until Thaw, and returns once none is under way: then every volume holds the same records, and what they
// hold is durable, as always between two appends. Errors: domain.ErrRefused when ctx ends first, what ended the VM.
func (v *VM) Freeze(ctx context.Context) error {
	select {
	case <-v.turn:
	case <-ctx.Done():
		return fmt.Errorf("freeze VM %s: an append is still under way: %w: %w", v.spec.VM, domain.ErrRefused, ctx.Err())
	case <-v.life.Done():
		return v.life.Err()
	case <-v.failed:
		return v.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.life.Err(); err != nil { // Halt waits for the turn
		v.turn <- struct{}{}
		return err
	}
	v.frozen = true
	return nil
}

// Thaw lets appends go on; it reports whether they had to wait until then.
func (v *VM) Thaw() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.frozen {
		return false
	}
	v.frozen = false
	v.turn <- struct{}{}
	return true
}

// Stopped writes the stop line of a halted VM.
func (v *VM) Stopped(reason string) error {
	v.mu.Lock()
	last := v.last
	v.mu.Unlock()
	l := v.line(ledger.KindStop, last)
	l.Reason = reason
	return v.deps.Ledger(l)
}

// Append makes one record durable and acknowledges it. Errors: ErrFull, ErrPayload, the gate's (the record may be on the
// disks all the same), or what ended the VM.
func (v *VM) Append(ctx context.Context, payload []byte) (Ack, error) {
	select {
	case <-v.turn:
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	case <-v.life.Done():
		return Ack{}, v.life.Err()
	case <-v.failed:
		return Ack{}, v.Err()
	}
	defer func() { v.turn <- struct{}{} }()
	if err := errors.Join(v.life.Err(), v.Err(), v.deps.Gate()); err != nil {
		return Ack{}, err
	}
	// The caller may leave, but a record that was begun is finished: hence the VM's own context.
	seq, hash, err := v.log.append(v.life, payload)
	switch {
	case errors.Is(err, ErrFull) || errors.Is(err, ErrPayload):
		return Ack{}, err
	case err != nil:
		v.fail(err)
		return Ack{}, err
	}
	v.mu.Lock()
	v.last = seq
	v.mu.Unlock()
	return v.acknowledge(seq, hash)
}

// acknowledge is the moment of truth: the clock is read, the gate asked, the ledger written, in this order.
func (v *VM) acknowledge(seq uint64, hash applog.Hash) (Ack, error) {
	l := v.line(ledger.KindAck, seq)
	l.Hash, l.Bytes = hash.String(), v.log.heads[0].RecordSize
	if err := v.life.Err(); err != nil {
		return Ack{}, err
	}
	if err := v.deps.Gate(); err != nil {
		return Ack{}, err
	}
	if err := v.deps.Ledger(l); err != nil {
		return Ack{}, fmt.Errorf("acknowledge record %d: %w", seq, err)
	}
	return Ack{Seq: seq, VM: l.VM, Site: l.Site, Instance: l.Instance, Epoch: l.Epoch, ClockNS: l.ClockNS, WallNS: l.WallNS, Hash: l.Hash}, nil
}

func (v *VM) line(kind string, seq uint64) ledger.Line {
	s := v.spec
	return ledger.Line{
		Kind: kind, VM: s.VM, Site: s.Site, Host: s.Host, Instance: s.Instance, Epoch: s.Epoch, Seq: seq,
		ClockNS: int64(clock.Now()), WallNS: v.deps.Wall().UnixNano(),
	}
}

func (v *VM) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return
	}
	v.err = fmt.Errorf("VM %s: %w", v.spec.VM, err)
	close(v.failed)
}

// Status is the VM's state now.
func (v *VM) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := Status{
		VM: v.spec.VM, Group: v.spec.Group, Site: v.spec.Site, Host: v.spec.Host, Instance: v.spec.Instance, Epoch: v.spec.Epoch,
		BootedAt: v.booted, LastSeq: v.last, FirstSeq: v.firstSeq, Capacity: v.log.heads[0].Capacity,
	}
	if v.err != nil {
		s.Error = v.err.Error()
	}
	return s
}

// Digests reads the records from..from+limit-1 of the first volume, as far as there are.
func (v *VM) Digests(from uint64, limit int) ([]Digest, error) {
	v.mu.Lock()
	last := v.last
	v.mu.Unlock()
	h := v.log.heads[0]
	out := []Digest{}
	b := make([]byte, h.RecordSize)
	for seq := max(from, 1); seq <= last && len(out) < limit; seq++ {
		if _, err := v.log.disks[0].ReadAt(b, h.Offset(seq)); err != nil {
			return nil, fmt.Errorf("read record %d: %w", seq, err)
		}
		r, hash, err := applog.DecodeRecord(b)
		if err != nil {
			return nil, fmt.Errorf("read record %d: %w", seq, err)
		}
		out = append(out, Digest{
			Seq: r.Seq, Hash: hash.String(), Epoch: r.Epoch, Site: r.Site, Instance: r.Instance, WallNS: r.WallNS, BootNS: r.BootNS, Bytes: len(r.Payload),
		})
	}
	return out, nil
}
