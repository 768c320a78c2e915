// Package passivetest is what every kind of passive voter must do, as a test. An adapter runs it over the real thing.
package passivetest

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Records is where a passive voter keeps a group's record.
type Records interface {
	Read() (uint64, core.Record, error)
	Swap(expect uint64, rec core.Record) (core.Swapped, error)
}

// Open is a new client, as another site has one, of a cluster's group on the storage under test.
type Open func(t *testing.T, cluster string, group domain.GroupID) Records

// Run runs the suite. clients is how many race.
func Run(t *testing.T, clients int, open Open) {
	t.Run("nothing written is version zero", func(t *testing.T) {
		if version, rec, err := open(t, "suite", "new").Read(); version != 0 || !reflect.DeepEqual(rec, core.Record{}) || err != nil {
			t.Errorf("version %d, %+v, %v", version, rec, err)
		}
	})
	t.Run("a record comes back as it was", func(t *testing.T) { same(t, open) })
	t.Run("of racing clients one wins", func(t *testing.T) { race(t, clients, open) })
	t.Run("clusters and groups are apart", func(t *testing.T) { apart(t, open) })
	t.Run("whoever is behind loses", func(t *testing.T) {
		const last = 80
		c := open(t, "suite", "behind")
		for v := range uint64(last) {
			swap(t, c, v, Record(v), core.SwapWon)
		}
		for _, expect := range []uint64{0, 1, last / 2, last - 1} {
			swap(t, open(t, "suite", "behind"), expect, Record(999), core.SwapLost)
		}
		if version, rec, err := c.Read(); version != last || rec.HB != last-1 || err != nil {
			t.Errorf("version %d, heartbeat %d, %v", version, rec.HB, err)
		}
	})
}

// Record is a record that differs with its heartbeat.
func Record(hb uint64) core.Record {
	return core.Record{Promised: domain.NewEpoch(0, 1, 1), VHolder: "a", G: time.Second, HB: hb}
}

func swap(t *testing.T, c Records, expect uint64, rec core.Record, want core.Swapped) {
	t.Helper()
	if how, err := c.Swap(expect, rec); how != want || err != nil {
		t.Fatalf("swap over version %d: %v, %v; want %v", expect, how, err, want)
	}
}

func same(t *testing.T, open Open) {
	weights := core.Weights{}
	for i := range 9 {
		weights[core.VoterID(fmt.Sprintf("site-%d", i))] = 1 + i%2
	}
	rec := core.Record{Promised: domain.NewEpoch(1, 77, 3), VEpoch: domain.NewEpoch(1, 76, 2), VHolder: "site-2", G: 6 * time.Second, ReservedFor: "site-3", HB: 1 << 40,
		Reg: core.Register{WE: domain.NewEpoch(1, 76, 2), Seq: 12, InSync: []domain.SiteID{"site-1", "site-2"}, Counter: 5, Config: core.Config{Version: 3, Weights: weights, Old: core.Weights{"site-1": 1, "share": 1}}}}
	swap(t, open(t, "suite", "same"), 0, rec, core.SwapWon)
	version, got, err := open(t, "suite", "same").Read()
	if version != 1 || !reflect.DeepEqual(got, rec) || err != nil {
		t.Errorf("version %d, %v\n got %+v\nwant %+v", version, err, got, rec)
	}
}

func race(t *testing.T, clients int, open Open) {
	for round := range 3 {
		expect := uint64(round)
		var won, lost atomic.Int32
		var winner atomic.Uint64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range clients {
			c := open(t, "suite", "race")
			wg.Go(func() {
				<-start
				switch how, err := c.Swap(expect, Record(uint64(i))); {
				case err != nil:
					t.Errorf("client %d: %v", i, err)
				case how == core.SwapWon:
					won.Add(1)
					winner.Store(uint64(i))
				case how == core.SwapLost:
					lost.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		if won.Load() != 1 || int(lost.Load()) != clients-1 {
			t.Fatalf("version %d: %d won, %d lost of %d", expect+1, won.Load(), lost.Load(), clients)
		}
		if version, rec, err := open(t, "suite", "race").Read(); err != nil || version != expect+1 || rec.HB != winner.Load() {
			t.Fatalf("reads version %d of client %d, %v; client %d won version %d", version, rec.HB, err, winner.Load(), expect+1)
		}
	}
}

func apart(t *testing.T, open Open) {
	var all []Records
	for i := range 40 {
		c := open(t, fmt.Sprintf("cluster-%d", i/2), domain.GroupID(fmt.Sprintf("group-%d", i%2)))
		swap(t, c, 0, Record(uint64(i)), core.SwapWon)
		all = append(all, c)
	}
	for i, c := range all {
		if version, rec, err := c.Read(); version != 1 || rec.HB != uint64(i) || err != nil {
			t.Errorf("cluster %d group %d: version %d, heartbeat %d, %v", i/2, i%2, version, rec.HB, err)
		}
	}
}

// Unavailable holds storage that is gone to what the core counts on: no answer is a lost swap or an empty record.
func Unavailable(t *testing.T, c Records) {
	t.Helper()
	if _, _, err := c.Read(); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("read: %v, want unavailable", err)
	}
	if how, err := c.Swap(0, Record(1)); how != core.SwapUnknown || !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("swap: %v, %v, want unknown and unavailable", how, err)
	}
}
