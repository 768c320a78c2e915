package pool

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/opstats"
	"github.com/holdfast-dr/holdfast/services/replicator/qos"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// unit is an open volume as initiators reach it: limited and measured.
type unit struct {
	*filevolume.Volume
	limit *qos.Limiter
	stats *opstats.Recorder
	kept  string // the file of what Keep keeps
}

var (
	_ target.Mapper  = (*unit)(nil)
	_ target.Metered = (*unit)(nil)
	_ target.Resizer = (*unit)(nil)
	_ target.Keeper  = (*unit)(nil)
)

func newUnit(v *filevolume.Volume, rec volumeRecord, kept string) *unit {
	began := time.Now()
	u := &unit{Volume: v, kept: kept, stats: opstats.New(began.UTC()), limit: qos.New(v.Submit, func() time.Duration { return time.Since(began) })}
	u.limit.Set(rec.IOPS, rec.Bandwidth)
	return u
}

// Submit implements target.Unit.
func (u *unit) Submit(c *target.Command, done func(error)) { u.limit.Submit(c, done) }

// Meter implements target.Metered.
func (u *unit) Meter() target.Meter { return u.stats }

func (u *unit) close() error { return u.Close() }

// Unlimit lets all that waits for a limit go on at once, when the server stops.
func (p *Pool) Unlimit() {
	for _, v := range p.sorted() {
		p.mu.Lock()
		u := v.unit
		p.mu.Unlock()
		if u != nil {
			u.limit.Set(0, 0)
		}
	}
}

// set changes a volume's limits; nil leaves one as it is.
func (p *Pool) set(r Request) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	rec := v.rec
	if err := rec.limits(r); err != nil {
		return fmt.Errorf("set limits of volume %s: %w", r.Name, err)
	}
	if err := p.putVolume(v.name, rec); err != nil {
		return err
	}
	if v.unit != nil {
		v.unit.limit.Set(rec.IOPS, rec.Bandwidth)
	}
	return nil
}

// limits takes the limits of a request.
func (rec *volumeRecord) limits(r Request) error {
	for _, l := range []struct {
		from *int64
		to   *int64
		min  int64
		what string
	}{{r.IOPS, &rec.IOPS, 10, "operations a second"}, {r.Bandwidth, &rec.Bandwidth, 64 << 10, "bytes a second"}} {
		if l.from == nil {
			continue
		}
		if *l.from != 0 && *l.from < l.min {
			return fmt.Errorf("%d %s would stall initiators; give %d at least, or 0 for no limit: %w", *l.from, l.what, l.min, domain.ErrInvalid)
		}
		*l.to = *l.from
	}
	return nil
}

// statsOf tells what a volume did since it was opened by the process that serves it.
func (p *Pool) statsOf(name string) (*opstats.Stats, error) {
	v, err := p.find(name)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	u, failed := v.unit, v.err
	p.mu.Unlock()
	if u == nil || p.front == nil {
		return nil, errors.Join(fmt.Errorf("statistics of volume %s: %w: nothing serves it, and they are kept by the process that does", name, domain.ErrUnavailable), failed)
	}
	s := u.stats.Stats()
	return &s, nil
}

// tellFull logs that there is no space, and that there is again.
func tellFull(log *slog.Logger) func(bool) {
	return func(full bool) {
		if full {
			log.Error("no space left in the pool; writes fail until there is: delete volumes or snapshots, or unmap what guests do not use")
			return
		}
		log.Warn("there is space in the pool again")
	}
}
