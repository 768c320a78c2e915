package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
)

// mutant is a safety measure taken away.
type mutant struct {
	seam        seam
	volumeFirst bool // changes reach the volume before the journal has them
	raiseFirst  bool // no mutant: every life begins by raising the epoch
}

const oraclePath = "erp.journal"

// oracle drives one journal and its volumes through operations, crashes and recoveries.
type oracle struct {
	rng   *rand.Rand
	disk  *faultdisk.Disk
	m     mutant
	stats *crashStats
	logf  func(string, ...any)
	cfg   Config
	b     *Builder

	j       *Journal
	applier *Applier
	volumes []Volume

	// now is the acknowledged state; then what it may be instead once the request in flight was cut.
	now, then *model
	target    bool       // applies up to the commit LSN only
	applied   domain.LSN // what the volumes showed before the crash
	commit    domain.LSN
	fresh     bool     // nothing was done since recovery
	counter   int      // of epochs
	lastOps   []change // of the frame issued last, to write the same payload again
	same      bool     // the next frame has the payload of lastOps
	again     bool     // a frame was lost: crash in the next one too, at the same place with the same payload
	lastFuse  int
	clock     time.Time
}

// runSeed plays one seed: some lives, each with a crash at its end, and says what was wrong.
func runSeed(seed uint64, m mutant, stats *crashStats, b *Builder, logf func(string, ...any)) error {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	rng := rand.New(rand.NewPCG(seed, 0x0ac1e))
	m.seam.minSize = PageSize
	size := int64(ringOffset + (8+rng.IntN(24))*PageSize)
	o := &oracle{rng: rng, disk: faultdisk.New(seed), m: m, stats: stats, logf: logf, b: b, now: newModel(),
		target: rng.IntN(3) == 0, clock: time.Unix(1_700_000_000, 0),
		cfg: Config{Group: "erp", SizeBytes: size, seam: m.seam}}
	if err := o.create(); err != nil {
		return err
	}
	for life := range 3 + rng.IntN(5) {
		o.logf("life %d: last %d, epoch %s, target %v", life, o.now.last(), o.now.epoch, o.target)
		if err := o.live(); err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
		if err := o.restart(); err != nil {
			return fmt.Errorf("after life %d: %w", life, err)
		}
	}
	return nil
}

// create makes the journal, with crashes on the way: either there is no file, or a whole one.
func (o *oracle) create() error {
	ctx := context.Background()
	if o.rng.IntN(4) == 0 {
		o.disk.CutAfter(1 + o.rng.IntN(8))
		_, err := Create(ctx, o.disk, oraclePath, o.cfg)
		if err != nil && !errors.Is(err, faultdisk.ErrOff) {
			return wrong("create: %v", err)
		}
		o.disk.Restart(o.rng.IntN(4) == 0)
	}
	if exists, _ := o.disk.Exists(oraclePath); exists {
		return o.open()
	}
	j, err := Create(ctx, o.disk, oraclePath, o.cfg)
	if err != nil {
		return wrong("create: %v", err)
	}
	o.start(j)
	return nil
}

func (o *oracle) start(j *Journal) {
	o.j = j
	o.volumes = nil
	for i := range oracleVolumes {
		o.volumes = append(o.volumes, o.disk.Volume(fmt.Sprintf("volume%d", i), oracleVolumeSize))
	}
	o.applier = NewApplier(j, o.volumes)
}

// live does operations until the armed cut comes.
func (o *oracle) live() error {
	if o.again {
		if err := o.crashThereAgain(); err != nil || o.disk.IsOff() {
			return err
		}
	}
	o.arm()
	for range 40 {
		o.then = nil
		err := o.step()
		if err == nil && o.then != nil {
			o.now = o.then
		}
		o.applied = max(o.applied, o.applier.Applied())
		if o.disk.IsOff() {
			o.logf("  cut")
			return nil // whatever the call said: the caller is gone
		}
		if err != nil {
			return err
		}
	}
	o.then = nil
	o.disk.Cut()
	return nil
}

// crashThereAgain is the recovery trap: what the lost frame left behind, and what is left of the next one, which begins
// at the same place with the same payload, must not make a frame that nobody wrote.
func (o *oracle) crashThereAgain() error {
	o.again = false
	if o.now.epoch == 0 || o.now.sealed || o.m.raiseFirst || o.rng.IntN(3) == 0 {
		o.then = nil
		if err := o.raise(); err != nil {
			return err
		}
		o.now, o.then = o.then, nil
	}
	o.disk.CutAfter(1)
	o.same = true
	err := o.append()
	o.same = false
	if o.disk.IsOff() {
		o.logf("  cut at the same place")
		return nil
	}
	return err // the ring was full
}

// arm chooses the moment of the crash: soon, as often as not, or exactly where the last one was.
func (o *oracle) arm() {
	switch o.rng.IntN(4) {
	case 0:
		o.lastFuse = 1 + o.rng.IntN(60)
	case 1: // again
		if o.lastFuse == 0 {
			o.lastFuse = 1
		}
	default:
		o.lastFuse = 1 + o.rng.IntN(6)
	}
	o.disk.CutAfter(o.lastFuse)
}

// reopen closes the journal and recovers it, without a crash: a planned restart.
func (o *oracle) reopen() error {
	o.logf("  reopen")
	if err := o.j.Close(); err != nil {
		return err
	}
	return o.open()
}

// restart ends a life, and recovers, with crashes on the way.
func (o *oracle) restart() error {
	for {
		kill := o.rng.IntN(4) == 0
		o.disk.Restart(kill)
		o.stats.crashes.Add(1)
		if kill {
			o.stats.kills.Add(1)
		}
		if o.rng.IntN(3) == 0 {
			o.disk.CutAfter(1 + o.rng.IntN(12))
		}
		err := o.open()
		if o.disk.IsOff() {
			o.stats.openCrashes.Add(1)
			o.logf("  cut while opening")
			continue
		}
		o.disk.CutAfter(0)
		return err
	}
}

// open recovers and demands: the acknowledged state, or the one with the request in flight; then that the replayed
// volumes are exactly what the changes up to there make.
func (o *oracle) open() error {
	j, rec, err := Open(context.Background(), o.disk, oraclePath, o.cfg)
	if err != nil {
		return wrong("open: %v", err)
	}
	inFlight := o.then != nil && len(o.then.ops) > len(o.now.ops)
	err = o.now.matches(rec)
	if err == nil && rec.ReleasedLSN > o.applied {
		err = wrong("released %d, applied %d", rec.ReleasedLSN, o.applied) // or it is a Reset to the same LSN
	}
	o.again = err == nil && inFlight && o.rng.IntN(2) == 0
	if err != nil && o.then != nil {
		if o.then.matches(rec) == nil {
			if o.then.base != o.now.base || len(o.then.ops) == 0 {
				o.applied, o.commit = o.then.base, o.then.base
			}
			o.now, err = o.then, nil
		} else {
			err = fmt.Errorf("%w; nor what was in flight: %w", err, o.then.matches(rec))
		}
	}
	if err != nil {
		return err
	}
	o.then, o.fresh = nil, true
	o.count(rec)
	o.start(j)
	upto := rec.LastLSN
	if o.target {
		upto = rec.CommitLSN
	}
	o.logf("  recovered %d to %d, commit %d, epoch %s, torn %v", rec.TailLSN, rec.LastLSN, rec.CommitLSN, rec.Epoch, rec.Torn != nil)
	if upto < min(o.applied, rec.LastLSN) {
		return wrong("commit LSN %d, applied was %d", upto, o.applied)
	}
	if err := o.applier.Replay(rec, upto); err != nil {
		return err
	}
	o.applied, o.commit = upto, max(rec.CommitLSN, min(o.commit, rec.LastLSN))
	for i, want := range o.now.at(upto) {
		got := o.disk.Bytes(fmt.Sprintf("volume%d", i))
		for at := 0; at < len(want); at += 512 {
			if !bytes.Equal(got[at:at+512], want[at:at+512]) {
				return wrong("volume %d at LSN %d: sector %d has %d, want %d", i, upto, at/512, got[at], want[at])
			}
		}
	}
	return nil
}

func (o *oracle) count(rec *Recovered) {
	if rec.Torn != nil {
		o.stats.torn.Add(1)
	}
	if rec.LostSuperblock {
		o.stats.lostSuper.Add(1)
	}
}
