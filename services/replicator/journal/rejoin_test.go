package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
)

// The property of coming home: whatever two sites did, after the loser has gone back to the last common point and has
// caught up, both hold the same changes in the same epochs; and a lower epoch never lands.

// pair is two sites, what each should hold, and who is primary.
type pair struct {
	t       *testing.T
	rng     *rand.Rand
	sites   [2]*Journal
	truth   []string // of the primary: one line for each LSN
	primary int
	counter int
}

func TestSitesAgreeAfterEveryRejoin(t *testing.T) {
	seeds := uint64(150)
	if raceEnabled {
		seeds = 30
	}
	for seed := range seeds {
		p := &pair{t: t, rng: rand.New(rand.NewPCG(seed, 5))}
		cfg := testConfig
		cfg.SizeBytes = ringOffset + 256*PageSize
		for i := range p.sites {
			j, err := Create(t.Context(), faultdisk.New(seed), testPath, cfg)
			if err != nil {
				t.Fatal(err)
			}
			p.sites[i] = j
		}
		p.promote(0, 0)
		for range 12 {
			switch p.rng.IntN(5) {
			case 0, 1, 2:
				p.write()
			case 3:
				p.ship(100)
			default: // the other has come home, and is behind by any number of frames
				p.ship(p.rng.IntN(4))
				target := p.sites[1-p.primary].State().LastLSN
				p.promote(1-p.primary, target-domain.LSN(p.rng.IntN(3))*min(1, target/3))
			}
		}
		p.ship(1000)
		a, b := p.content(0), p.content(1)
		if !slices.Equal(a, b) || !slices.Equal(a, p.truth) {
			t.Fatalf("seed %d: the sites hold\n%v\n%v\nand should\n%v", seed, a, b, p.truth)
		}
		if !slices.Equal(p.sites[0].State().Lineage, p.sites[1].State().Lineage) {
			t.Fatalf("seed %d: lineages %v and %v", seed, p.sites[0].State().Lineage, p.sites[1].State().Lineage)
		}
	}
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// promote makes site i primary at LSN `at`, with what it holds after that cut off.
func (p *pair) promote(i int, at domain.LSN) {
	p.t.Helper()
	j := p.sites[i]
	p.must(j.Truncate(at))
	p.truth = p.content(i)
	p.counter++
	p.must(j.RaiseEpoch(domain.NewEpoch(0, p.counter, i+1), domain.SiteID(rune('a'+i)), at+1))
	p.primary = i
}

func (p *pair) write() {
	p.t.Helper()
	j := p.sites[p.primary]
	next, n := j.Next(), 1+p.rng.IntN(4)
	b := newBuilder(PageSize, 0, n)
	b.Reset("erp", next.Epoch, next.Number, next.FirstLSN)
	for range n {
		mark := int64(p.rng.IntN(1e9))
		b.Add(0, OpMarker, mark, 0, nil)
		p.truth = append(p.truth, fmt.Sprintf("%s/%d", next.Epoch, mark))
	}
	p.must(j.Append(b.Finish(0, next.PrevHeaderCRC, time.Unix(1, 0))))
}

// ship brings the other site towards where the primary is: back to the last common point, then every epoch since, in
// order, and up to limit frames. (A site that never came home before the other was promoted over it may hold an epoch
// above those of the frames it lacks: those are refused, and it takes a resync and Reset.)
func (p *pair) ship(limit int) {
	p.t.Helper()
	from, to := p.sites[p.primary], p.sites[1-p.primary]
	p.must(to.Truncate(commonPoint(from.State(), to.State())))
	for {
		at := to.State().LastLSN
		for _, e := range from.State().Lineage {
			if e.Epoch > to.State().Epoch && e.First == at+1 {
				p.must(to.RaiseEpoch(e.Epoch, e.Site, e.First))
			}
		}
		frames, err := from.Read(at+1, 1+p.rng.IntN(8*PageSize))
		p.must(err)
		if len(frames) == 0 || limit == 0 {
			break
		}
		for _, b := range frames {
			f, err := Decode(b)
			p.must(err)
			if f.Epoch > to.State().Epoch {
				break // its epoch is raised first
			}
			if limit == 0 {
				break
			}
			p.must(to.Append(b))
			limit--
		}
	}
	stale := Next{Epoch: 1, Number: 1, FirstLSN: to.State().LastLSN + 1}
	if err := to.Append(frameFor(stale, 1)); !errors.Is(err, domain.ErrStaleEpoch) {
		p.t.Fatalf("a stale epoch landed: %v", err)
	}
}

// commonPoint is the last LSN up to which two copies have the same history.
func commonPoint(a, b State) domain.LSN {
	end := func(s State, i int) domain.LSN {
		if i+1 < len(s.Lineage) {
			return s.Lineage[i+1].First - 1
		}
		return s.LastLSN
	}
	var common domain.LSN
	for i := range min(len(a.Lineage), len(b.Lineage)) {
		if a.Lineage[i] != b.Lineage[i] {
			break
		}
		common = min(end(a, i), end(b, i))
		if end(a, i) != end(b, i) {
			break
		}
	}
	return common
}

func (p *pair) content(i int) []string {
	p.t.Helper()
	var out []string
	st := p.sites[i].State()
	for lsn := domain.LSN(1); lsn <= st.LastLSN; {
		frames, err := p.sites[i].Read(lsn, 1<<20)
		p.must(err)
		for _, b := range frames {
			f, err := Decode(b)
			p.must(err)
			for _, e := range f.Entries {
				out = append(out, fmt.Sprintf("%s/%d", f.Epoch, e.Off))
			}
			lsn = f.LastLSN + 1
		}
	}
	return out
}
