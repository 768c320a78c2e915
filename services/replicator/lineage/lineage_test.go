package lineage_test

import (
	"math/rand/v2"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/lineage"
)

func e(epoch, first int, site string) api.LineageEntry {
	return api.LineageEntry{Epoch: domain.Epoch(epoch), FirstLSN: domain.LSN(first), Site: domain.SiteID(site)}
}

func TestCommonPointOfTwoCopies(t *testing.T) {
	for _, c := range []struct {
		name       string
		a, b       []api.LineageEntry
		aLast      domain.LSN
		bLast      domain.LSN
		want       domain.LSN
		wantUnkown bool
	}{
		{name: "two empty copies"},
		{name: "an empty copy of a primary", b: []api.LineageEntry{e(5, 1, "a")}, bLast: 10},
		{name: "the same epoch, behind", a: []api.LineageEntry{e(5, 1, "a")}, aLast: 7, b: []api.LineageEntry{e(5, 1, "a")}, bLast: lineage.Unbounded, want: 7},
		{name: "overtaken with a tail", a: []api.LineageEntry{e(5, 1, "a")}, aLast: 1000,
			b: []api.LineageEntry{e(5, 1, "a"), e(6, 901, "b")}, bLast: lineage.Unbounded, want: 900},
		{name: "behind an older epoch", a: []api.LineageEntry{e(5, 1, "a")}, aLast: 800,
			b: []api.LineageEntry{e(5, 1, "a"), e(6, 901, "a"), e(7, 901, "b")}, bLast: lineage.Unbounded, want: 800},
		{name: "both went on alone", a: []api.LineageEntry{e(5, 1, "a"), e(7, 501, "a")}, aLast: 700,
			b: []api.LineageEntry{e(5, 1, "a"), e(6, 401, "b")}, bLast: 900, want: 400},
		{name: "nothing shared but the beginning", a: []api.LineageEntry{e(5, 1, "a")}, aLast: 7, b: []api.LineageEntry{e(6, 1, "b")}, bLast: 9},
		{name: "nothing shared, beginnings forgotten", a: []api.LineageEntry{e(5, 40, "a")}, aLast: 70,
			b: []api.LineageEntry{e(6, 1, "b")}, bLast: 90, wantUnkown: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, known := lineage.Common(lineage.Copy{Lineage: c.a, Last: c.aLast}, lineage.Copy{Lineage: c.b, Last: c.bLast})
			if got != c.want || known == c.wantUnkown {
				t.Fatalf("common %d known %v, want %d known %v", got, known, c.want, !c.wantUnkown)
			}
			back, _ := lineage.Common(lineage.Copy{Lineage: c.b, Last: c.bLast}, lineage.Copy{Lineage: c.a, Last: c.aLast})
			if back != got {
				t.Fatalf("not symmetric: %d and %d", got, back)
			}
		})
	}
}

// life is a copy as it really is: the epoch of each change, so that the true common prefix can be counted.
type life struct {
	copy    lineage.Copy
	changes []api.LineageEntry // changes[i] names the branch change i+1 was made on
}

func (l *life) promote(epoch domain.Epoch, site string) {
	l.copy.Lineage = append(l.copy.Lineage[:len(l.copy.Lineage):len(l.copy.Lineage)], e(int(epoch), len(l.changes)+1, site))
}

func (l *life) write(n int) {
	for range n {
		l.changes = append(l.changes[:len(l.changes):len(l.changes)], l.copy.Lineage[len(l.copy.Lineage)-1])
	}
	l.copy.Last = domain.LSN(len(l.changes))
}

// follow makes l a prefix of p, n changes long.
func (l *life) follow(p *life, n int) {
	n = min(n, len(p.changes))
	l.changes = p.changes[:n:n]
	l.copy.Last = domain.LSN(n)
	l.copy.Lineage = nil
	for _, en := range p.copy.Lineage {
		if int(en.FirstLSN) <= n+1 {
			l.copy.Lineage = append(l.copy.Lineage, en)
		}
	}
}

func TestCommonPointIsTheTruePrefixInRandomLives(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		copies := []*life{{}, {}, {}}
		names := []string{"a", "b", "c"}
		var epoch domain.Epoch
		for range r.IntN(12) + 1 {
			i, k := r.IntN(3), r.IntN(3)
			if r.IntN(2) == 0 {
				epoch++
				copies[i].promote(epoch, names[i])
				copies[i].write(r.IntN(6))
			} else if i != k {
				copies[i].follow(copies[k], r.IntN(len(copies[k].changes)+1))
			}
		}
		a, b := copies[0], copies[1]
		want := 0
		for want < len(a.changes) && want < len(b.changes) && a.changes[want] == b.changes[want] {
			want++
		}
		got, known := lineage.Common(a.copy, b.copy)
		if !known || got != domain.LSN(want) {
			t.Fatalf("seed %d: common %d (known %v), truth %d\na %+v\nb %+v", seed, got, known, want, a.copy, b.copy)
		}
	}
}

func TestMissingEpochsAreTakenInOrderAndOnlyAtTheirPlace(t *testing.T) {
	src := []api.LineageEntry{e(5, 1, "a"), e(6, 901, "b"), e(7, 901, "b"), e(9, 950, "a")}
	got, ok := lineage.Missing(src, 5, 900)
	if !ok || len(got) != 2 || got[0].Epoch != 6 || got[1].Epoch != 7 {
		t.Fatalf("got %+v %v", got, ok)
	}
	if got, ok := lineage.Missing(src, 5, 800); !ok || len(got) != 0 {
		t.Fatalf("a copy behind takes nothing yet: %+v %v", got, ok)
	}
	if _, ok := lineage.Missing(src, 5, 920); ok {
		t.Fatal("a copy past the beginning of an epoch it does not have is no prefix")
	}
	if lineage.EpochOf(src, 900) != 5 || lineage.EpochOf(src, 949) != 7 || lineage.EpochOf(src[1:], 3) != 0 {
		t.Fatal("epoch of a change")
	}
}
