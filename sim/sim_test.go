package sim

import (
	"os"
	"strconv"
	"testing"
)

// schedules is how many to run: few by default, HOLDFAST_SIM_SCHEDULES for more.
func schedules(t *testing.T, few int) int {
	t.Helper()
	s := os.Getenv("HOLDFAST_SIM_SCHEDULES")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_SIM_SCHEDULES=%q: want a number above zero", s)
	}
	return n
}

func TestInvariantsHoldUnderFaults(t *testing.T) {
	sum := Many(1, schedules(t, 400), Mutations{})
	t.Log(sum)
	if v := sum.Violation; v != nil {
		t.Errorf("seed %d: %s\nreplay: go run ./sim/cmd/sim -seed %d -v", v.Seed, v.Violation, v.Seed)
	}
	if sum.Grants < int64(2*sum.Schedules) || sum.Writes < int64(50*sum.Schedules) {
		t.Errorf("the schedules do too little to show anything: %s", sum)
	}
}

func TestAForcedQuorumIsSafeAndHeals(t *testing.T) {
	sum := Many(1, schedules(t, 240)/4, Mutations{OftenForced: true})
	t.Log(sum)
	if v := sum.Violation; v != nil {
		t.Errorf("seed %d: %s\nreplay: go run ./sim/cmd/sim -forced -seed %d -v", v.Seed, v.Violation, v.Seed)
	}
	if sum.Forced < int64(sum.Schedules/10) {
		t.Errorf("quorum was forced too seldom to show anything: %s", sum)
	}
}

// Each of these was found by a long search, and ended in a violation once.
func TestSchedulesThatOnceFailed(t *testing.T) {
	for seed, why := range map[uint64]string{
		83456:  "a force was given up midway, and who lacks nothing may join only",
		347353: "a second force that no voter named in it knew the first of",
		238156: "a force over a change of votes that was never agreed on",
	} {
		if r := Run(seed, Mutations{}, nil); r.Violation != "" {
			t.Errorf("seed %d, %s: %s", seed, why, r.Violation)
		}
	}
}

func TestASeedReplaysTheSameSchedule(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		var first, second []string
		a := Run(seed, Mutations{}, func(l string) { first = append(first, l) })
		b := Run(seed, Mutations{}, func(l string) { second = append(second, l) })
		if a != b || len(first) != len(second) {
			t.Fatalf("seed %d: %+v then %+v", seed, a, b)
		}
		for i := range first {
			if first[i] != second[i] {
				t.Fatalf("seed %d differs at line %d:\n%s\n%s", seed, i, first[i], second[i])
			}
		}
	}
}

func TestEveryMutantIsCaught(t *testing.T) {
	for i, m := range Mutants() {
		t.Run(m.Name, func(t *testing.T) {
			if testing.Short() && i >= 8 {
				t.Skip("SKIPPED: -short catches the first eight; the full tests catch all")
			}
			if m.Slow && os.Getenv("HOLDFAST_SIM_SCHEDULES") == "" {
				t.Skipf("SKIPPED: takes up to %d schedules; set HOLDFAST_SIM_SCHEDULES to run it", m.Within)
			}
			var mut Mutations
			m.Set(&mut)
			sum := Many(1, m.Within, mut)
			if sum.Violation == nil {
				t.Fatalf("%s: not caught: %s", m.Doc, sum)
			}
			t.Logf("caught after %d schedules: seed %d: %s", sum.Schedules, sum.Violation.Seed, sum.Violation.Violation)
			again := Run(sum.Violation.Seed, mut, nil)
			if again.Violation != sum.Violation.Violation {
				t.Errorf("seed %d replays as %q, was %q", again.Seed, again.Violation, sum.Violation.Violation)
			}
		})
	}
}
