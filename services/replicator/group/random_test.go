package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// life drives two sites of a synchronous group through a random history and knows what each block may hold.
type life struct {
	c       *cluster
	r       *rand.Rand
	seed    uint64
	primary domain.SiteID
	epoch   domain.Epoch
	value   uint64
	acked   [2][lifeBlocks]uint64          // acknowledged last
	maybe   [2][lifeBlocks]map[uint64]bool // written since, not acknowledged: may be found or not
	flying  []flying
	log     []string
	policy  bool                 // changes, too
	wrote   target.Unit          // where the writes under way went
	cached  bool                 // the group's class: what counts as acknowledged is what was flushed
	marks   map[moment][2][]byte // what the blocks held at checkpoints
}

// moment is a checkpoint: of one line only.
type moment struct {
	lsn   domain.LSN
	epoch domain.Epoch
}

type flying struct {
	volume, block int
	value         uint64
	done          <-chan error
}

const lifeBlocks = 48

func (l *life) say(format string, args ...any) { l.log = append(l.log, fmt.Sprintf(format, args...)) }

func (l *life) fatal(format string, args ...any) {
	l.c.t.Helper()
	l.c.t.Fatalf("seed %d: %s\nhistory: %v", l.seed, fmt.Sprintf(format, args...), l.log)
}

func (l *life) alive(s domain.SiteID) bool { return l.c.nodes[s].g != nil }
func other(s domain.SiteID) domain.SiteID {
	if s == "a" {
		return "b"
	}
	return "a"
}

// submit starts n writes of up to three blocks.
func (l *life) submit(n int) {
	for range n {
		v, b := l.r.IntN(2), l.r.IntN(lifeBlocks)
		l.value++
		var data []byte
		for i := b; i < min(b+1+l.r.IntN(3), lifeBlocks); i++ {
			data = append(data, block(l.value)...)
		}
		u := l.c.nodes[l.primary].unit(v)
		l.wrote = u
		done := submit(u, &target.Command{Op: target.OpWrite, Off: int64(b) * 4096, Len: int64(len(data)), Data: data})
		for i := range len(data) / 4096 {
			l.maybe[v][b+i][l.value] = true
			l.flying = append(l.flying, flying{v, b + i, l.value, done})
			if i > 0 {
				l.flying[len(l.flying)-1].done = nil // told by the first
			}
		}
	}
}

// collect waits for every write under way; those acknowledged must be found from now on.
func (l *life) collect() {
	var err error
	ended := make([]error, len(l.flying))
	for i, f := range l.flying {
		if f.done != nil {
			err = await(l.c.t, f.done)
		}
		ended[i] = err
	}
	flushed := l.flush()
	for i, f := range l.flying {
		if err := ended[i]; err == nil && flushed {
			if f.value > l.acked[f.volume][f.block] {
				l.acked[f.volume][f.block] = f.value
				for old := range l.maybe[f.volume][f.block] {
					if old <= f.value {
						delete(l.maybe[f.volume][f.block], old)
					}
				}
			}
		} else if err != nil && !errors.Is(err, target.ErrFenced) {
			l.fatal("write: %v", err)
		}
	}
	l.flying = nil
}

// flush reports whether everything that was acknowledged is durable.
func (l *life) flush() bool {
	if !l.cached {
		return true
	}
	if l.wrote == nil {
		return false
	}
	err := await(l.c.t, submit(l.wrote, &target.Command{Op: target.OpFlush}))
	if err != nil && !errors.Is(err, target.ErrFenced) {
		l.fatal("flush: %v", err)
	}
	return err == nil
}

// check reads every block at the new primary.
func (l *life) check() {
	for v := range 2 {
		for b := range lifeBlocks {
			got := binary.LittleEndian.Uint64(l.c.nodes[l.primary].read(v, int64(b)*4096, 8))
			if got != l.acked[v][b] && !l.maybe[v][b][got] {
				l.fatal("volume %d block %d at %s holds %d, acknowledged was %d, possible %v", v, b, l.primary, got, l.acked[v][b], l.maybe[v][b])
			}
			l.acked[v][b], l.maybe[v][b] = got, map[uint64]bool{}
		}
	}
}

func (l *life) promote(s domain.SiteID) {
	if !l.alive(s) {
		l.c.boot(s)
	}
	l.epoch = l.epoch.Next(int(s[0]-'a') + 1)
	l.say("promote %s %s", s, l.epoch)
	was := l.primary
	l.c.promote(s, l.epoch)
	l.primary = s
	l.collect() // what the one before still answers, it answers as the fenced do
	if was != s && l.alive(was) {
		eventually(l.c.t, "the old primary stops", func() bool { s := l.c.nodes[was].g.current(); return s == nil || s.epoch == l.epoch })
	}
	l.check()
}

// mark makes a checkpoint while nothing is written, and remembers what the blocks hold.
func (l *life) mark() {
	p := l.c.nodes[l.primary]
	got, err := p.g.Mark(l.c.t.Context(), api.CheckpointCreateRequest{Group: "erp", Label: "random"})
	if err != nil {
		l.fatal("mark: %v", err)
	}
	l.say("mark %d of %s", got.LSN, got.Epoch)
	l.marks[moment{got.LSN, got.Epoch}] = [2][]byte{p.read(0, 0, lifeBlocks*4096), p.read(1, 0, lifeBlocks*4096)}
}

// marked are the checkpoints that a site lists and that are known.
func (l *life) marked(s domain.SiteID) (out []moment) {
	for _, p := range l.c.nodes[s].checkpoints() {
		if m := (moment{p.LSN, p.Epoch}); l.marks[m][0] != nil {
			out = append(out, m)
		}
	}
	return out
}

// checkMarks reads what the sites list.
func (l *life) checkMarks() {
	for _, s := range []domain.SiteID{"a", "b"} {
		if !l.alive(s) {
			continue
		}
		for _, m := range l.marked(s) {
			v, err := l.c.nodes[s].g.store.hist.View(m.lsn)
			if errors.Is(err, domain.ErrNotFound) {
				continue // a copy that rejoins takes it off the list
			}
			for i, want := range l.marks[m] {
				have := make([]byte, len(want))
				if err == nil {
					_, err = v.ReadAt(i, have, 0)
				}
				if err != nil || !bytes.Equal(have, want) {
					l.fatal("checkpoint %d of %s at %s is not what it was in volume %d, %v", m.lsn, m.epoch, s, i, err)
				}
			}
			v.Close()
		}
	}
}

// back has the primary go back to a checkpoint where it is.
func (l *life) back() {
	marks := l.marked(l.primary)
	if len(marks) == 0 {
		return
	}
	m := marks[l.r.IntN(len(marks))]
	for v := range 2 {
		for b := range lifeBlocks {
			l.acked[v][b], l.maybe[v][b] = binary.LittleEndian.Uint64(l.marks[m][v][b*4096:]), map[uint64]bool{}
		}
	}
	l.epoch = l.epoch.Next(int(l.primary[0]-'a') + 1)
	l.say("back to %d of %s as %s", m.lsn, m.epoch, l.epoch)
	set := l.c.quo.grant(l.primary, l.epoch)
	req := api.PromoteRequest{Group: "erp", Epoch: l.epoch, InSync: set, Checkpoint: m.lsn, Decision: l.epoch.String()}
	if _, err := l.c.nodes[l.primary].g.Promote(l.c.t.Context(), req); err != nil {
		l.fatal("back to %d: %v", m.lsn, err)
	}
	l.check()
}

func (l *life) step() {
	defer l.checkMarks()
	p, t := l.primary, other(l.primary)
	kinds := 10
	if l.policy {
		kinds = 14
	}
	switch l.r.IntN(kinds) {
	case 0, 1:
		l.say("write")
		l.submit(10 + l.r.IntN(30))
		l.collect()
	case 2:
		l.say("kill primary %s", p)
		l.submit(l.r.IntN(30))
		if l.r.IntN(2) == 0 {
			time.Sleep(time.Duration(l.r.IntN(3000)) * time.Microsecond)
		}
		l.c.kill(p)
		l.collect()
		set := l.c.quo.set()
		l.promote(set[l.r.IntN(len(set))])
	case 3:
		if l.alive(t) {
			l.say("kill target %s", t)
			l.submit(l.r.IntN(20))
			l.c.kill(t)
			l.submit(l.r.IntN(20))
			l.collect()
		}
	case 4, 5:
		if !l.alive(t) {
			l.say("boot target %s", t)
			l.submit(l.r.IntN(20))
			l.c.boot(t)
			l.submit(l.r.IntN(20))
			l.collect()
		}
	case 6:
		if set := l.c.quo.set(); slices.Contains(set, t) && l.alive(t) {
			l.say("take over from %s alive", p)
			l.submit(l.r.IntN(30))
			l.promote(t)
		}
	case 8:
		l.mark()
	case 9:
		l.submit(l.r.IntN(20))
		l.collect()
		if l.r.IntN(3) == 0 {
			l.back()
		} else {
			l.mark()
		}
	case 10, 11, 12, 13:
		l.changePolicy()
	case 7:
		if !l.alive(t) {
			return
		}
		l.say("move to %s", t)
		l.submit(l.r.IntN(10))
		_, err := l.c.nodes[p].g.Demote(l.c.t.Context(), api.DemoteRequest{Group: "erp", Epoch: l.epoch, Successor: t, TimeoutNs: int64(3 * time.Second)})
		l.collect()
		if err == nil {
			l.promote(t)
		} else if !errors.Is(err, domain.ErrRefused) {
			l.fatal("demote: %v", err)
		}
	}
}

// changePolicy asks for another mode and another answer to the loss of a target, while writes are under way, and sometimes kills
// the primary on its way there.
func (l *life) changePolicy() {
	mode := []domain.Mode{domain.ModeSync, domain.ModeSync, domain.ModeAsync, domain.ModeNone}[l.r.IntN(4)]
	l.say("policy %s", mode)
	l.submit(l.r.IntN(20))
	if l.r.IntN(4) == 0 {
		l.c.quo.lose(true) // the register changes, and nobody is told
	}
	l.c.adopt(func(g *domain.Group) { g.Targets[0].Mode = mode })
	l.submit(l.r.IntN(20))
	if l.r.IntN(3) == 0 {
		time.Sleep(time.Duration(l.r.IntN(20000)) * time.Microsecond)
		p := l.primary
		l.say("kill primary %s", p)
		l.c.kill(p)
		l.c.quo.lose(false)
		l.collect()
		set := l.c.quo.set()
		l.promote(set[l.r.IntN(len(set))])
		return
	}
	l.c.quo.lose(false)
	l.collect()
}

func TestRandomPoliciesLoseNoAcknowledgedSyncWrite(t *testing.T) {
	slow(t)
	randomLives(t, true, domain.DurabilityStrict)
}

func TestRandomLivesLoseNoAcknowledgedSyncWrite(t *testing.T) {
	slow(t)
	randomLives(t, false, domain.DurabilityStrict)
}

func TestRandomCachedLivesLoseNothingThatWasFlushed(t *testing.T) {
	slow(t)
	randomLives(t, true, domain.DurabilityCached)
}

func randomLives(t *testing.T, policy bool, class domain.Durability) {
	t.Helper()
	seeds, steps := uint64(3), 18
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_SEEDS")); err == nil {
		seeds = uint64(n)
	}
	first := uint64(1)
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_SEED")); err == nil {
		first, seeds = uint64(n), 1
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(strconv.Itoa(int(seed)), func(t *testing.T) {
			c := newCluster(t, domain.ModeSync)
			c.def.Durability = class
			c.def.Checkpoints.Every = 50 * time.Millisecond
			l := &life{c: c, r: rand.New(rand.NewPCG(seed, 9)), seed: seed, primary: "a", policy: policy, cached: class == domain.DurabilityCached, marks: map[moment][2][]byte{}}
			for v := range l.maybe {
				for b := range l.maybe[v] {
					l.maybe[v][b] = map[uint64]bool{}
				}
			}
			c.boot("a", "b")
			l.promote("a")
			for range steps {
				l.step()
			}
			if t := other(l.primary); !l.alive(t) {
				c.boot(t)
			}
			c.adopt(func(g *domain.Group) { g.Targets[0].Mode = domain.ModeSync })
			c.follows(l.primary, other(l.primary))
			c.same("a", "b")
			l.check()
			if t.Failed() {
				t.Log(l.log)
			}
		})
	}
}
