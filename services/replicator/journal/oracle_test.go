package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The crash oracle: see oracle_model_test.go for what is demanded, oracle_run_test.go for what is done.

var (
	seedsFlag = flag.Int("seeds", 0, "seeds of the crash oracle (default 10000)")
	seedFlag  = flag.Uint64("seed", 0, "replay this one seed of the crash oracle, with its transcript")
)

// crashStats says what a run met, so that a green one can be seen to have done something.
type crashStats struct {
	crashes, kills, torn, frames, wraps, truncates, resets, raises, lostSuper, openCrashes atomic.Int64
}

func (s *crashStats) String() string {
	return fmt.Sprintf("crashes %d (kills %d, while opening %d), frames %d, ring wraps %d, torn tails %d, lost superblocks %d, truncates %d, resets %d, epochs %d",
		s.crashes.Load(), s.kills.Load(), s.openCrashes.Load(), s.frames.Load(), s.wraps.Load(), s.torn.Load(),
		s.lostSuper.Load(), s.truncates.Load(), s.resets.Load(), s.raises.Load())
}

// runSeeds runs seeds 1..n on all processors and gives the lowest seed that failed, and its error.
func runSeeds(t *testing.T, n int, m mutant, stats *crashStats) (seed uint64, failure error) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // many short-lived disks
	var next, lowest atomic.Uint64
	lowest.Store(1 << 62)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			b := NewBuilder()
			for {
				s := next.Add(1)
				if s > uint64(n) || s > lowest.Load() {
					return
				}
				if err := runSeed(s, m, stats, b, nil); err != nil {
					mu.Lock()
					if s < lowest.Load() {
						lowest.Store(s)
						failure = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return lowest.Load(), failure
}

func TestRecoveryGivesAnExactPrefixOfEverythingAcknowledged(t *testing.T) {
	stats := &crashStats{}
	if *seedFlag != 0 {
		if err := runSeed(*seedFlag, mutant{}, stats, NewBuilder(), t.Logf); err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	n := *seedsFlag
	if n == 0 {
		n = 10_000
		if testing.Short() {
			n = 2_000
		}
		if raceEnabled {
			n = 300 // the detector makes it ten times slower
		}
	}
	start := time.Now()
	if seed, err := runSeeds(t, n, mutant{}, stats); err != nil {
		_ = runSeed(seed, mutant{}, stats, NewBuilder(), t.Logf)
		t.Fatalf("seed %d: %v\nreplay: go test -run %s -seed=%d", seed, err, t.Name(), seed)
	}
	t.Logf("%d seeds in %v: %s", n, time.Since(start).Round(time.Millisecond), stats)
}

// TestTheOracleCatchesEveryMutant takes the safety measures away one by one.
func TestTheOracleCatchesEveryMutant(t *testing.T) {
	mutants := []struct {
		name string
		m    mutant
	}{
		{"tail advanced before the volume's flush", mutant{seam: seam{tailEarly: true}}},
		{"volume before journal", mutant{volumeFirst: true}},
		{"acknowledged before flush", mutant{seam: seam{ackEarly: true}}},
		{"no payload CRC", mutant{seam: seam{noPayloadCRC: true}}},
		{"epochs only monotonic", mutant{seam: seam{monotonicEpochs: true}, raiseFirst: true}},
		{"one superblock", mutant{seam: seam{oneSuperblock: true}}},
		{"torn header left in place", mutant{seam: seam{noWipe: true}}},
		{"released space reused before a superblock says so", mutant{seam: seam{tailInMemory: true}}},
		{"recovery trusts the page cache", mutant{seam: seam{noOpenSync: true}}},
	}
	for _, tt := range mutants {
		t.Run(tt.name, func(t *testing.T) {
			seed, err := runSeeds(t, 10_000, tt.m, &crashStats{})
			if err == nil {
				t.Fatal("10000 seeds passed: the oracle does not see it")
			}
			t.Logf("caught at seed %d: %.200v", seed, err)
		})
	}
}

// TestTheExactEpochIsAGuardOfItsOwn: when every life begins with a higher epoch, the rule that frames from its first
// position on carry exactly that epoch holds even where torn headers are left in place. With the weaker rule, which is
// the mutant "epochs only monotonic", the same lives break.
func TestTheExactEpochIsAGuardOfItsOwn(t *testing.T) {
	n := 3000
	if raceEnabled {
		n = 200
	}
	if seed, err := runSeeds(t, n, mutant{seam: seam{noWipe: true}, raiseFirst: true}, &crashStats{}); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

func TestTheOracleReplaysASeed(t *testing.T) {
	transcript := func() string {
		var out bytes.Buffer
		err := runSeed(7, mutant{}, &crashStats{}, NewBuilder(), func(f string, a ...any) { fmt.Fprintf(&out, f+"\n", a...) })
		return out.String() + fmt.Sprint(err)
	}
	if a, b := transcript(), transcript(); a != b || len(a) < 100 {
		t.Fatalf("two runs of one seed differ:\n%s\n---\n%s", a, b)
	}
}

// errWrong marks what the oracle found wrong, as opposed to the power cut it arranged.
var errWrong = errors.New("oracle")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errWrong, fmt.Sprintf(format, args...))
}
