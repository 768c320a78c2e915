package history

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
)

const (
	oracleBlocks = 24
	oracleBytes  = oracleBlocks * BlockSize
)

// device is a Base that can be written to, on a disk that loses what was not flushed.
type device struct{ *faultdisk.Volume }

func (d device) Extent(off int64) (bool, int64, error) { return true, oracleBytes - off, nil }

// change is one of the group's order; its LSN is its place.
type change struct {
	volume   int
	off, len int64
	fill     byte
}

// mutant is a safety measure taken away from who uses the history.
type mutant struct {
	baseFirst  bool // the base is overwritten before what it held is recorded
	redoAll    bool // a redo records also what is before the newest checkpoint
	takeInRedo bool // a checkpoint is taken while a redo has not reached the end
	rewindHot  bool // the list is rewound before the base has what it goes back to
}

// oracle is a copy with a history, a journal that never loses anything, and a model of every state that was a checkpoint.
type oracle struct {
	t       *testing.T
	rng     *rand.Rand
	disk    *faultdisk.Disk
	m       mutant
	keep    Keep
	base    []device
	h       *History
	order   []change
	applied domain.LSN
	flushed domain.LSN
	image   [2][]byte
	models  map[domain.LSN][2][]byte
	app     map[domain.LSN]bool // confirmed; true when that is known to be durable
	taken   domain.LSN          // the newest that is known to be durable
	back    domain.LSN          // the durable intent to go back to a checkpoint
	lost    int
	clock   time.Time
}

func newOracle(t *testing.T, seed uint64, m mutant) *oracle {
	o := &oracle{t: t, rng: rand.New(rand.NewPCG(seed, 7)), disk: faultdisk.New(seed), m: m, models: map[domain.LSN][2][]byte{}, app: map[domain.LSN]bool{}, clock: time.Unix(1e9, 0)}
	o.keep = Keep{Age: time.Hour, Count: 2 + o.rng.IntN(8), Bytes: int64(1+o.rng.IntN(40)) * 64 << 10}
	o.image = [2][]byte{make([]byte, oracleBytes), make([]byte, oracleBytes)}
	return o
}

var errWrong = errors.New("wrong")

// open is the start of the process: base, history, redo.
func (o *oracle) open() error {
	o.base = []device{{o.disk.Volume("a", oracleBytes)}, {o.disk.Volume("b", oracleBytes)}}
	h, err := Open(Config{FS: o.disk, Dir: "h", Base: []Base{o.base[0], o.base[1]}, Sizes: []int64{oracleBytes, oracleBytes}, Keep: o.keep,
		Lost: func(n int, _ string) { o.lost += n; o.taken = 0 }})
	if err != nil {
		return err
	}
	o.h = h
	floor := h.Newest().LSN
	if o.m.redoAll {
		floor = 0
	}
	o.applied = o.flushed
	end := domain.LSN(len(o.order))
	if o.back > 0 { // all that the way back needs is recorded
		if err := o.bring(end, false); err != nil {
			return err
		}
		return o.goBack()
	}
	for o.applied < end {
		to := min(end, o.applied+1+domain.LSN(o.rng.IntN(4)))
		if o.applied < floor {
			to = min(to, floor)
		}
		if err := o.bring(to, o.applied >= floor); err != nil {
			return err
		}
		if o.m.takeInRedo && h.Recording() && o.applied > floor {
			if err := o.take(); err != nil {
				return err
			}
		}
	}
	return nil
}

// bring applies the changes up to an LSN as one batch.
func (o *oracle) bring(to domain.LSN, recorded bool) error {
	var ranges []Range
	for _, c := range o.order[o.applied:to] {
		r := Range{Volume: c.volume, Off: c.off, Len: c.len}
		switch {
		case c.fill == 0:
			r.Zero = true
		case c.fill%2 == 0:
			r.Data = bytes.Repeat([]byte{c.fill}, int(c.len))
		}
		ranges = append(ranges, r)
	}
	record := func() error {
		if !recorded {
			return nil
		}
		return o.h.Record(ranges)
	}
	if !o.m.baseFirst {
		if err := record(); err != nil {
			return err
		}
	}
	for _, c := range o.order[o.applied:to] {
		data := bytes.Repeat([]byte{c.fill}, int(c.len))
		if _, err := o.base[c.volume].WriteAt(data, c.off); err != nil {
			return err
		}
	}
	if o.m.baseFirst {
		if err := record(); err != nil {
			return err
		}
	}
	o.applied = to
	return nil
}

// stateAt is the prefix of the order, from the newest model or the beginning.
func (o *oracle) stateAt(lsn domain.LSN) [2][]byte {
	s := [2][]byte{make([]byte, oracleBytes), make([]byte, oracleBytes)}
	for _, c := range o.order[:lsn] {
		copy(s[c.volume][c.off:], bytes.Repeat([]byte{c.fill}, int(c.len)))
	}
	return s
}

func (o *oracle) take() error {
	o.models[o.applied] = o.stateAt(o.applied)
	before := o.lost
	o.clock = o.clock.Add(time.Duration(1+o.rng.IntN(9)) * time.Second)
	p := Point{LSN: o.applied, Epoch: 1, Time: o.clock, Kind: KindCrash}
	if o.rng.IntN(6) == 0 {
		p.Label = "wanted"
	}
	if !slices.ContainsFunc(o.h.List(), func(h Held) bool { return h.LSN == p.LSN }) { // one that was taken off the list is another's
		delete(o.app, p.LSN)
	}
	if err := o.h.Take(p); err != nil {
		return err
	}
	if o.lost == before {
		o.taken = o.applied
	}
	return nil
}

// confirm says of some checkpoint that the guests were held still at it.
func (o *oracle) confirm() error {
	list := o.h.List()
	if len(list) == 0 {
		return nil
	}
	p, before := list[o.rng.IntN(len(list))].Point, o.lost
	if err := o.h.Confirm(p.LSN, p.Epoch+1); err != nil { // of another epoch: not this one
		return err
	}
	if !o.app[p.LSN] {
		o.app[p.LSN] = false
	}
	if err := o.h.Confirm(p.LSN, p.Epoch); err != nil {
		return err
	}
	o.app[p.LSN] = o.lost == before
	return nil
}

func (o *oracle) write() error {
	for range 1 + o.rng.IntN(5) {
		c := change{volume: o.rng.IntN(2), off: int64(o.rng.IntN(oracleBytes/512)) * 512, fill: byte(o.rng.IntN(256))}
		c.len = min(oracleBytes-c.off, int64(1+o.rng.IntN(40))*512)
		if o.rng.IntN(8) == 0 {
			c.fill = 0
		}
		o.order = append(o.order, c)
	}
	return o.bring(domain.LSN(len(o.order)), true)
}

func (o *oracle) flush() error {
	for _, b := range o.base {
		if err := b.Sync(); err != nil {
			return err
		}
	}
	o.flushed = o.applied
	return nil
}

// goBack finishes the way back to a checkpoint.
func (o *oracle) goBack() error {
	put := func(volume int, off int64, data []byte) error {
		if data == nil {
			data = zeroes[:]
		}
		_, err := o.base[volume].WriteAt(data, off)
		return err
	}
	if o.m.rewindHot {
		restore := []func() error{}
		err := o.h.Restore(o.back, func(volume int, off int64, data []byte) error {
			data = bytes.Clone(data)
			restore = append(restore, func() error { return put(volume, off, data) })
			return nil
		})
		if err == nil {
			err = o.h.Rewind(o.back)
		}
		for _, f := range restore {
			if err == nil {
				err = f()
			}
		}
		if err != nil {
			return err
		}
		put = func(int, int64, []byte) error { return nil }
	}
	o.h.Leave(o.back)
	if o.h.Recording() { // or it was given up when the base was back already
		if err := o.h.Restore(o.back, put); err != nil {
			return err
		}
	}
	for _, b := range o.base {
		if err := b.Sync(); err != nil {
			return err
		}
	}
	o.order, o.applied, o.flushed = o.order[:o.back], o.back, o.back // the journal
	for lsn := range o.models {
		if lsn > o.back {
			delete(o.models, lsn)
			delete(o.app, lsn)
		}
	}
	o.taken = min(o.taken, o.back)
	if err := o.h.Rewind(o.back); err != nil {
		return err
	}
	o.back = 0
	return nil
}

func (o *oracle) step() error {
	switch n := o.rng.IntN(22); {
	case n == 21:
		if list := o.h.List(); len(list) > 0 && o.rng.IntN(3) == 0 {
			o.back = list[o.rng.IntN(len(list))].LSN
			return o.goBack()
		}
		return nil
	case n < 11:
		return o.write()
	case n < 14:
		if o.applied == 0 {
			return nil
		}
		return o.take()
	case n < 17:
		budget := o.rng.IntN(6)
		return o.h.Trim(o.clock, func() bool { budget--; return budget >= 0 })
	case n == 17:
		return o.confirm()
	case n < 19:
		return o.h.Forget(func(p Point) bool { return p.LSN%7 != 0 || p.LSN == o.taken })
	}
	return o.flush()
}

// check reads every checkpoint that is listed.
func (o *oracle) check() error {
	now := o.stateAt(o.applied)
	for v, b := range o.base {
		have := make([]byte, oracleBytes)
		if _, err := b.ReadAt(have, 0); err != nil {
			return err
		}
		if !bytes.Equal(have, now[v]) {
			return fmt.Errorf("volume %d itself: %w", v, errWrong)
		}
	}
	listed := map[domain.LSN]bool{}
	for _, held := range o.h.List() {
		listed[held.LSN] = true
		model, ok := o.models[held.LSN]
		if !ok {
			return fmt.Errorf("checkpoint %d was never asked for: %w", held.LSN, errWrong)
		}
		if sure, tried := o.app[held.LSN]; held.Kind == KindApp && !tried || held.Kind != KindApp && sure {
			return fmt.Errorf("checkpoint %d is of kind %s, confirmed %v: %w", held.LSN, held.Kind, sure, errWrong)
		}
		if err := o.checkView(held.LSN, model); err != nil {
			return err
		}
	}
	if o.taken > 0 && !listed[o.taken] && o.h.Newest().LSN <= o.taken {
		return fmt.Errorf("the newest checkpoint, %d, is not listed: %w", o.taken, errWrong)
	}
	return nil
}

func (o *oracle) checkView(lsn domain.LSN, model [2][]byte) error {
	v, err := o.h.View(lsn)
	if err != nil {
		return err
	}
	defer v.Close()
	restored := [2][]byte{make([]byte, oracleBytes), make([]byte, oracleBytes)}
	for i := range model {
		have := make([]byte, oracleBytes)
		if _, err := v.ReadAt(i, have[:1536], 0); err != nil {
			return err
		}
		if _, err := v.ReadAt(i, have[1536:], 1536); err != nil {
			return err
		}
		if !bytes.Equal(have, model[i]) {
			return fmt.Errorf("volume %d of checkpoint %d: %w", i, lsn, errWrong)
		}
		if _, err := o.base[i].ReadAt(restored[i], 0); err != nil {
			return err
		}
	}
	err = o.h.Restore(lsn, func(volume int, off int64, data []byte) error {
		if data == nil {
			data = zeroes[:]
		}
		copy(restored[volume][off:], data)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range model {
		if !bytes.Equal(restored[i], model[i]) {
			return fmt.Errorf("volume %d restored to checkpoint %d: %w", i, lsn, errWrong)
		}
	}
	return nil
}

// live plays lives of one copy; each ends in a crash.
func (o *oracle) live(lives int) error {
	for life := range lives {
		o.disk.CutAfter(1 + o.rng.IntN(60))
		if life%4 == 3 {
			o.disk.CutAfter(1 + o.rng.IntN(8)) // a second crash at the same place
		}
		err := o.open()
		for err == nil {
			err = o.step()
		}
		if !errors.Is(err, faultdisk.ErrOff) {
			return fmt.Errorf("life %d: %w", life, err)
		}
		o.disk.Restart(o.rng.IntN(3) == 0)
		if o.rng.IntN(2) == 0 {
			continue
		}
		if err := o.open(); err != nil {
			return fmt.Errorf("life %d: open: %w", life, err)
		}
		if err := o.check(); err != nil {
			return fmt.Errorf("life %d: %w", life, err)
		}
		o.h.Close()
	}
	return nil
}

func seeds(t *testing.T, full int) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_SEEDS")); err == nil {
		return n
	}
	if testing.Short() {
		return full / 40
	}
	return full
}

func TestEveryListedCheckpointIsWhatItWasWheneverThePowerGoes(t *testing.T) {
	for seed := range seeds(t, 1500) {
		if err := newOracle(t, uint64(seed), mutant{}).live(12); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestTheOracleCatchesEveryMutant(t *testing.T) {
	for name, m := range map[string]mutant{"base first": {baseFirst: true}, "redo records all": {redoAll: true}, "checkpoint in a redo": {takeInRedo: true},
		"rewound first": {rewindHot: true}} {
		caught := false
		for seed := range 400 {
			if err := newOracle(t, uint64(seed), m).live(12); errors.Is(err, errWrong) {
				caught = true
				break
			}
		}
		if !caught {
			t.Errorf("%s: not caught", name)
		}
	}
}
