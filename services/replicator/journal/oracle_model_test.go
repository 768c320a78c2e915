package journal

import (
	"bytes"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	oracleVolumes    = 2
	oracleVolumeSize = 24 << 10
)

// change is one entry as the oracle issued it.
type change struct {
	vol  uint16
	op   Op
	off  int64
	len  int64
	fill byte
}

func (c change) data() []byte {
	if c.op != OpWrite {
		return nil
	}
	return bytes.Repeat([]byte{c.fill}, int(c.len))
}

func (c change) equal(e Entry) bool {
	return c.vol == e.Volume && c.op == e.Op && c.off == e.Off && c.len == e.Len && bytes.Equal(c.data(), e.Data)
}

// model is what a journal must recover to: an acknowledged state, or the state after the one request in flight.
type model struct {
	base    domain.LSN // the volumes' state before ops[0], after Create or Reset
	volumes [oracleVolumes][]byte
	ops     []change     // LSN base+1 on
	bounds  []domain.LSN // last LSNs of frames
	epoch   domain.Epoch
	lineage []LineageEntry
	sealed  bool
	meta    byte
}

func newModel() *model {
	m := &model{}
	for i := range m.volumes {
		m.volumes[i] = make([]byte, oracleVolumeSize)
	}
	return m
}

func (m *model) last() domain.LSN { return m.base + domain.LSN(len(m.ops)) }

func (m *model) clone() *model {
	c := *m
	c.ops, c.bounds, c.lineage = slices.Clone(m.ops), slices.Clone(m.bounds), slices.Clone(m.lineage)
	return &c
}

// at is the volumes' state after the change lsn.
func (m *model) at(lsn domain.LSN) [oracleVolumes][]byte {
	var out [oracleVolumes][]byte
	for i := range out {
		out[i] = slices.Clone(m.volumes[i])
	}
	for _, c := range m.ops[:lsn-m.base] {
		switch c.op {
		case OpWrite:
			copy(out[c.vol][c.off:], c.data())
		case OpZero, OpUnmap:
			clear(out[c.vol][c.off : c.off+c.len])
		}
	}
	return out
}

func (m *model) append(ops []change) *model {
	c := m.clone()
	c.ops = append(c.ops, ops...)
	c.bounds = append(c.bounds, c.last())
	return c
}

func (m *model) raise(epoch domain.Epoch, site domain.SiteID) *model {
	c := m.clone()
	c.epoch, c.sealed = epoch, false
	c.lineage = append(c.lineage, LineageEntry{Epoch: epoch, First: m.last() + 1, Site: site})
	c.bounds = append(c.bounds, m.last())
	return c
}

func (m *model) truncate(after domain.LSN) *model {
	c := m.clone()
	c.ops = c.ops[:after-c.base]
	current := domain.LSN(1<<64 - 1) // the epoch left the lineage earlier
	if n := len(c.lineage); n > 0 && c.lineage[n-1].Epoch == c.epoch {
		current = c.lineage[n-1].First
	}
	c.sealed = after != c.base && !slices.Contains(c.bounds, after) || current > after+1
	c.bounds = slices.DeleteFunc(c.bounds, func(l domain.LSN) bool { return l > after })
	c.lineage = slices.DeleteFunc(c.lineage, func(e LineageEntry) bool { return e.First > after+1 })
	return c
}

func (m *model) reset(last domain.LSN, state [oracleVolumes][]byte, epoch domain.Epoch, site domain.SiteID) *model {
	c := &model{base: last, volumes: state, epoch: epoch, meta: m.meta}
	c.lineage = []LineageEntry{{Epoch: epoch, First: 1, Site: site}}
	return c
}

// epochAt is the epoch that change lsn must carry.
func (m *model) epochAt(lsn domain.LSN) domain.Epoch {
	var e domain.Epoch
	for _, l := range m.lineage {
		if l.First <= lsn {
			e = l.Epoch
		}
	}
	return e
}

// matches demands that a recovered journal is in exactly this state: nothing missing, nothing more, nothing else.
func (m *model) matches(rec *Recovered) error {
	switch {
	case rec.LastLSN != m.last():
		return wrong("last LSN %d, want %d", rec.LastLSN, m.last())
	case rec.Epoch != m.epoch:
		return wrong("epoch %s, want %s", rec.Epoch, m.epoch)
	case !slices.Equal(rec.Lineage, m.lineage):
		return wrong("lineage %v, want %v", rec.Lineage, m.lineage)
	case rec.Cut != m.sealed:
		return wrong("cut %v, want %v", rec.Cut, m.sealed)
	case m.meta != 0 && !bytes.Equal(rec.Meta, bytes.Repeat([]byte{m.meta}, int(m.meta)*8)):
		return wrong("meta %x, want %x", rec.Meta, m.meta)
	case rec.ReleasedLSN < m.base || rec.ReleasedLSN > rec.LastLSN || rec.TailLSN > rec.ReleasedLSN+1:
		return wrong("base %d, tail %d, released %d, last %d", m.base, rec.TailLSN, rec.ReleasedLSN, rec.LastLSN)
	}
	next := rec.TailLSN
	for f, err := range rec.Frames() {
		if err != nil {
			return wrong("read frame at LSN %d: %v", next, err)
		}
		if f.FirstLSN != next || int(f.LastLSN-f.FirstLSN)+1 != len(f.Entries) || f.LastLSN > m.last() {
			return wrong("frame %d has LSN %d to %d and %d entries, want from %d", f.Number, f.FirstLSN, f.LastLSN, len(f.Entries), next)
		}
		for i, e := range f.Entries {
			lsn := f.FirstLSN + domain.LSN(i)
			if lsn <= m.base || !m.ops[lsn-m.base-1].equal(e) || f.Epoch != m.epochAt(lsn) {
				return wrong("LSN %d of epoch %s is %s of %d at %d on %d, issued was %+v of epoch %s", lsn, f.Epoch, e.Op, e.Len,
					e.Off, e.Volume, m.ops[lsn-m.base-1], m.epochAt(lsn))
			}
		}
		next = f.LastLSN + 1
	}
	if next != m.last()+1 {
		return wrong("frames end before LSN %d, last is %d", next, m.last())
	}
	return nil
}
