package zone

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

var (
	e1 = domain.NewEpoch(0, 1, 1)
	e2 = domain.NewEpoch(0, 2, 2)
	e3 = domain.NewEpoch(0, 3, 1)
)

func seeded(t *testing.T) Zone {
	t.Helper()
	z, err := New("HF.Example")
	if err != nil {
		t.Fatal(err)
	}
	z, err = z.Seed([]Record{
		{Name: "erp.hf.example", Type: A, Value: "10.0.0.1", Group: "erp"},
		{Name: "db.erp.hf.example.", Type: A, Value: "10.0.0.2", TTL: 30, Group: "erp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func move(old, to string, e domain.Epoch) Change {
	return Change{Name: "erp.hf.example.", Type: A, Old: old, New: to, Group: "erp", Epoch: e}
}

func anyOld(to string, e domain.Epoch) Change {
	return Change{Name: "erp.hf.example.", Type: A, New: to, OldIsAny: true, Group: "erp", Epoch: e}
}

func TestChangeIsACompareAndSwap(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before []Change
		change Change
		want   error // nil: taken
		repeat bool  // taken without changing anything
		stands string
		says   []string
	}{
		{name: "the old value is as expected", change: move("10.0.0.1", "10.1.0.1", e1), stands: "10.1.0.1"},
		{name: "a name in any case, with or without its dot", change: Change{Name: "ERP.hf.EXAMPLE", Type: A, Old: "10.0.0.1", New: "10.1.0.1", Group: "erp", Epoch: e1},
			stands: "10.1.0.1"},
		{name: "a stale view", before: []Change{move("10.0.0.1", "10.1.0.1", e1)}, change: move("10.0.0.1", "10.2.0.1", e2),
			want: domain.ErrConflict, stands: "10.1.0.1", says: []string{"erp.hf.example.", "expected 10.0.0.1", "found 10.1.0.1"}},
		{name: "a stale view at the same epoch", before: []Change{move("10.0.0.1", "10.1.0.1", e1)}, change: move("10.0.0.1", "10.2.0.1", e1),
			want: domain.ErrConflict, stands: "10.1.0.1"},
		{name: "the new value stands under a lower epoch", before: []Change{move("10.0.0.1", "10.1.0.1", e1)},
			change: move("10.0.0.1", "10.1.0.1", e2), stands: "10.1.0.1"},
		{name: "a takeover that knows no old value", change: anyOld("10.1.0.1", e1), stands: "10.1.0.1"},
		{name: "a takeover that knows no old value, again", before: []Change{anyOld("10.1.0.1", e1)}, change: anyOld("10.1.0.1", e1), repeat: true, stands: "10.1.0.1"},
		{name: "a takeover that knows no old value, and a mover of its own epoch", before: []Change{anyOld("10.1.0.1", e1)}, change: anyOld("10.2.0.1", e1),
			want: domain.ErrConflict, stands: "10.1.0.1"},
		{name: "a takeover that knows no old value, too late", before: []Change{anyOld("10.1.0.1", e2)}, change: anyOld("10.2.0.1", e1),
			want: domain.ErrStaleEpoch, stands: "10.1.0.1"},
		{name: "a lower epoch with the right view", before: []Change{move("10.0.0.1", "10.1.0.1", e2)}, change: move("10.1.0.1", "10.0.0.1", e1),
			want: domain.ErrStaleEpoch, stands: "10.1.0.1", says: []string{"0.1.1", "0.2.2", "10.1.0.1"}},
		{name: "a lower epoch whose value stands already", before: []Change{move("10.0.0.1", "10.1.0.1", e2)},
			change: move("10.0.0.1", "10.1.0.1", e1), want: domain.ErrStaleEpoch, stands: "10.1.0.1"},
		{name: "the same change again", before: []Change{move("10.0.0.1", "10.1.0.1", e1)}, change: move("10.0.0.1", "10.1.0.1", e1),
			repeat: true, stands: "10.1.0.1"},
		{name: "home again at a higher epoch", before: []Change{move("10.0.0.1", "10.1.0.1", e2)}, change: move("10.1.0.1", "10.0.0.1", e3),
			stands: "10.0.0.1"},
		{name: "home again at the same epoch", before: []Change{move("10.0.0.1", "10.1.0.1", e2)}, change: move("10.1.0.1", "10.0.0.1", e2),
			stands: "10.0.0.1"},
		{name: "a new record where none was expected", change: Change{Name: "new.hf.example.", Type: AAAA, New: "2001:DB8::1", Group: "erp", Epoch: e1},
			stands: "2001:db8::1"},
		{name: "a record where none was expected, but one stands", change: move("", "10.1.0.1", e1), want: domain.ErrConflict, stands: "10.0.0.1",
			says: []string{"expected nothing", "found 10.0.0.1"}},
		{name: "a record expected, but none stands", change: Change{Name: "new.hf.example.", Type: A, Old: "10.0.0.1", New: "10.1.0.1", Group: "erp", Epoch: e1},
			want: domain.ErrConflict, says: []string{"found nothing"}},
		{name: "deleted", change: move("10.0.0.1", "", e1)},
		{name: "deleted twice", before: []Change{move("10.0.0.1", "", e1)}, change: move("10.0.0.1", "", e1), repeat: true},
		{name: "a deleted record keeps its epoch", before: []Change{move("10.0.0.1", "", e2)}, change: move("", "10.0.0.1", e1), want: domain.ErrStaleEpoch},
		{name: "a deleted record set again", before: []Change{move("10.0.0.1", "", e1)}, change: move("", "10.0.0.9", e2), stands: "10.0.0.9"},
		{name: "the other type's epoch counts", before: []Change{{Name: "erp.hf.example.", Type: AAAA, New: "::5", Group: "erp", Epoch: e2}},
			change: move("10.0.0.1", "10.1.0.1", e1), want: domain.ErrStaleEpoch, stands: "10.0.0.1"},
		{name: "a name of another group", change: Change{Name: "erp.hf.example.", Type: A, Old: "10.0.0.1", New: "10.1.0.1", Group: "crm", Epoch: e3},
			want: domain.ErrRefused, stands: "10.0.0.1", says: []string{"erp", "crm"}},
		{name: "a name of another zone", change: Change{Name: "erp.other.example.", Type: A, New: "10.1.0.1", Group: "erp", Epoch: e1}, want: domain.ErrRefused},
		{name: "a name that only ends like the zone", change: Change{Name: "nothf.example.", Type: A, New: "10.1.0.1", Group: "erp", Epoch: e1}, want: domain.ErrRefused},
		{name: "the zone itself", change: Change{Name: "hf.example.", Type: A, New: "10.1.0.1", Group: "erp", Epoch: e1}, want: domain.ErrRefused},
		{name: "no epoch", change: move("10.0.0.1", "10.1.0.1", 0), want: domain.ErrInvalid, stands: "10.0.0.1"},
		{name: "no values", change: move("", "", e1), want: domain.ErrInvalid},
		{name: "no group", change: Change{Name: "erp.hf.example.", Type: A, Old: "10.0.0.1", New: "10.1.0.1", Epoch: e1}, want: domain.ErrInvalid},
		{name: "IPv6 in an A record", change: move("10.0.0.1", "::1", e1), want: domain.ErrInvalid},
		{name: "IPv4 in an AAAA record", change: Change{Name: "x.hf.example", Type: AAAA, New: "10.0.0.1", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "IPv4 in IPv6", change: Change{Name: "x.hf.example", Type: AAAA, New: "::ffff:10.0.0.1", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "an IPv6 zone", change: Change{Name: "x.hf.example", Type: AAAA, New: "fe80::1%eth0", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "a type that is no address", change: Change{Name: "x.hf.example", Type: "MX", New: "10.0.0.1", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "a wildcard", change: Change{Name: "*.hf.example", Type: A, New: "10.0.0.1", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "an empty label", change: Change{Name: "x..hf.example", Type: A, New: "10.0.0.1", Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
		{name: "a TTL of two days", change: Change{Name: "x.hf.example", Type: A, New: "10.0.0.1", TTL: 2 * 86400, Group: "erp", Epoch: e1}, want: domain.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			z := seeded(t)
			for _, c := range tc.before {
				var err error
				if z, _, err = z.Apply(c); err != nil {
					t.Fatal(err)
				}
			}
			got, out, err := z.Apply(tc.change)
			if tc.want != nil && !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			for _, s := range tc.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
			name, _ := CanonicalName(tc.change.Name)
			if r, _ := got.Lookup(name, tc.change.Type); !errors.Is(tc.want, domain.ErrInvalid) && r.Value != tc.stands {
				t.Errorf("%q stands, want %q", r.Value, tc.stands)
			}
			wantChanged := tc.want == nil && !tc.repeat
			if out.Changed != wantChanged {
				t.Errorf("changed %v, want %v", out.Changed, wantChanged)
			}
			if grew := got.Serial() > z.Serial(); grew != wantChanged {
				t.Errorf("serial %d -> %d", z.Serial(), got.Serial())
			}
		})
	}
}

func TestAChangeOfTTLAloneIsAChangeAndALateDuplicateDoesNotUndoIt(t *testing.T) {
	z := seeded(t)
	first := move("10.0.0.1", "10.1.0.1", e1)
	first.TTL = 5
	z, _, err := z.Apply(first)
	if err != nil {
		t.Fatal(err)
	}
	longer := move("10.1.0.1", "10.1.0.1", e1)
	longer.TTL = 300
	z, out, err := z.Apply(longer)
	if err != nil || !out.Changed || out.Record.TTL != 300 {
		t.Fatalf("%+v, %v", out, err)
	}
	z, out, err = z.Apply(first)
	if err != nil || out.Changed || out.Record.TTL != 300 {
		t.Fatalf("late duplicate: %+v, %v", out, err)
	}
	if _, out, err = z.Apply(longer); err != nil || out.Changed {
		t.Fatalf("repeat: %+v, %v", out, err)
	}
}

func TestARepeatAnswersAsTheFirstTime(t *testing.T) {
	z := seeded(t)
	for i, c := range []Change{move("10.0.0.1", "10.1.0.1", e1), move("10.0.0.1", "10.1.0.1", e1), anyOld("10.1.0.1", e1), anyOld("10.1.0.1", e2),
		move("10.0.0.1", "10.1.0.1", e3)} {
		next, out, err := z.Apply(c)
		if err != nil || out.Before != "10.0.0.1" || out.Record.Value != "10.1.0.1" || out.Record.Epoch != c.Epoch {
			t.Fatalf("change %d: %+v, %v", i, out, err)
		}
		z = next
	}
}

func TestAZoneIsNotChangedByWhatIsMadeFromIt(t *testing.T) {
	z := seeded(t)
	before := z.Records()
	if _, _, err := z.Apply(move("10.0.0.1", "10.1.0.1", e1)); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Seed([]Record{{Name: "erp.hf.example", Type: A, Value: "10.9.9.9"}}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, z.Records()) {
		t.Fatalf("%+v became %+v", before, z.Records())
	}
}

func TestSeedsYieldToWhatWasChangedUnderAnEpoch(t *testing.T) {
	z := seeded(t)
	z, _, err := z.Apply(move("10.0.0.1", "10.1.0.1", e1))
	if err != nil {
		t.Fatal(err)
	}
	again, err := z.Seed([]Record{
		{Name: "erp.hf.example", Type: A, Value: "10.0.0.1", Group: "erp"},
		{Name: "db.erp.hf.example.", Type: A, Value: "10.0.0.2", TTL: 30, Group: "erp"},
	})
	if err != nil || again.Serial() != z.Serial() {
		t.Fatalf("the same configuration changed the zone: %d -> %d, %v", z.Serial(), again.Serial(), err)
	}
	edited, err := z.Seed([]Record{{Name: "db.erp.hf.example.", Type: A, Value: "10.0.0.7", Group: "erp"}})
	if r, _ := edited.Lookup("db.erp.hf.example.", A); err != nil || r.Value != "10.0.0.7" || edited.Serial() <= z.Serial() {
		t.Fatalf("an edited configuration: %+v, %v", r, err)
	}
	if _, err := z.Seed([]Record{{Name: "x.other.", Type: A, Value: "10.0.0.1"}}); !errors.Is(err, domain.ErrInvalid) {
		t.Fatalf("a record of another zone: %v", err)
	}
}

func TestNodesIncludeEmptyNonTerminalsAndForgetDeletedNames(t *testing.T) {
	z, _ := New("hf.example")
	z, _, err := z.Apply(Change{Name: "a.b.c.hf.example", Type: A, New: "10.0.0.1", Group: "erp", Epoch: e1})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"hf.example.", "c.hf.example.", "b.c.hf.example.", "a.b.c.hf.example."} {
		if !z.Exists(n) {
			t.Errorf("%s does not exist", n)
		}
	}
	z, _, err = z.Apply(Change{Name: "a.b.c.hf.example", Type: A, Old: "10.0.0.1", Group: "erp", Epoch: e1})
	if err != nil {
		t.Fatal(err)
	}
	if z.Exists("b.c.hf.example.") || z.Exists("a.b.c.hf.example.") || !z.Exists("hf.example.") {
		t.Error("a deleted name still exists")
	}
}

func TestMergeTakesTheHigherEpochThenTheHigherSerial(t *testing.T) {
	z := seeded(t)
	rec := func(value string, e domain.Epoch, serial uint32) Record {
		return Record{Name: "erp.hf.example.", Type: A, Value: value, TTL: 5, Group: "erp", Epoch: e, Serial: serial}
	}
	for _, tc := range []struct {
		name       string
		ours, them Record
		stands     string
		conflict   bool
	}{
		{"higher epoch", rec("10.0.0.1", e1, 9), rec("10.0.0.2", e2, 3), "10.0.0.2", false},
		{"lower epoch", rec("10.0.0.1", e2, 3), rec("10.0.0.2", e1, 9), "10.0.0.1", false},
		{"higher serial", rec("10.0.0.1", e1, 3), rec("10.0.0.2", e1, 4), "10.0.0.2", false},
		{"lower serial", rec("10.0.0.1", e1, 4), rec("10.0.0.2", e1, 3), "10.0.0.1", false},
		{"deleted later", rec("10.0.0.1", e1, 3), rec("", e1, 4), "", false},
		{"deleted earlier", rec("10.0.0.1", e2, 3), rec("", e1, 4), "10.0.0.1", false},
		{"one epoch, two makers", rec("10.0.0.1", e1, 3), rec("10.0.0.2", e1, 3), "10.0.0.2", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 { // both directions settle on the same value
				a, _, err := z.Merge([]Record{tc.ours})
				if err != nil {
					t.Fatal(err)
				}
				m, _, err := a.Merge([]Record{tc.them})
				if errors.Is(err, domain.ErrConflict) != tc.conflict || !tc.conflict && err != nil {
					t.Fatalf("error %v, want conflict %v", err, tc.conflict)
				}
				if r, _ := m.Lookup("erp.hf.example.", A); r.Value != tc.stands {
					t.Errorf("%q stands, want %q", r.Value, tc.stands)
				}
				if m.Serial() < tc.them.Serial || m.Serial() < tc.ours.Serial {
					t.Errorf("serial %d is below one it has seen", m.Serial())
				}
				tc.ours, tc.them = tc.them, tc.ours
			}
		})
	}
}

func TestMergeSkipsWhatCannotBeAndKeepsTheRest(t *testing.T) {
	z := seeded(t)
	m, changed, err := z.Merge([]Record{
		{Name: "x.other.example.", Type: A, Value: "10.0.0.9", Epoch: e1, Serial: 7},
		{Name: "bad.hf.example.", Type: A, Value: "not an address", Epoch: e1, Serial: 7},
		{Name: "neg.hf.example.", Type: A, Value: "10.0.0.9", Epoch: -1, Serial: 7},
		{Name: "erp.hf.example.", Type: A, Value: "10.0.0.9", Group: "erp", Epoch: e1, Serial: 7},
	})
	if !errors.Is(err, domain.ErrInvalid) || len(changed) != 1 {
		t.Fatalf("changed %+v, error %v", changed, err)
	}
	if r, _ := m.Lookup("erp.hf.example.", A); r.Value != "10.0.0.9" {
		t.Fatalf("%+v stands", r)
	}
}

// Sites hear of each other's records in any order, any number of times: once all have heard all, they answer the same,
// and the answer is that of the highest epoch.
func TestSitesThatHeardTheSameAnswerTheSame(t *testing.T) {
	const seed = 20
	rng := rand.New(rand.NewPCG(seed, 1))
	for round := range 300 {
		sites := [3]Zone{seeded(t), seeded(t), seeded(t)}
		highest := domain.Epoch(0)
		for step := range 12 {
			i := rng.IntN(3)
			// an epoch belongs to the site that won it
			e := domain.NewEpoch(0, 1+step/4, i+1)
			stands, _ := sites[i].Lookup("erp.hf.example.", A)
			to := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}[rng.IntN(3)]
			next, _, err := sites[i].Apply(move(stands.Value, to, e))
			switch {
			case err == nil:
				sites[i], highest = next, max(highest, e)
			case !errors.Is(err, domain.ErrStaleEpoch):
				t.Fatalf("seed %d round %d: %v", seed, round, err)
			}
			if rng.IntN(2) == 0 {
				j := rng.IntN(3)
				if sites[j], _, err = sites[j].Merge(sites[i].Records()); err != nil {
					t.Fatalf("seed %d round %d: %v", seed, round, err)
				}
			}
		}
		for range 2 {
			for i := range sites {
				for _, j := range rng.Perm(3) {
					var err error
					if sites[i], _, err = sites[i].Merge(sites[j].Records()); err != nil {
						t.Fatalf("seed %d round %d: %v", seed, round, err)
					}
				}
			}
		}
		for i := range sites {
			if !reflect.DeepEqual(sites[i].Records(), sites[0].Records()) {
				t.Fatalf("seed %d round %d: %+v\n%+v", seed, round, sites[i].Records(), sites[0].Records())
			}
			if r, _ := sites[i].Lookup("erp.hf.example.", A); r.Epoch != highest {
				t.Fatalf("seed %d round %d: epoch %s stands, want %s", seed, round, r.Epoch, highest)
			}
		}
	}
}

func TestLoadGivesBackWhatRecordsAndSerialGave(t *testing.T) {
	z, _, err := seeded(t).Apply(move("10.0.0.1", "", e1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load("hf.example", z.Serial(), z.Records())
	if err != nil || !reflect.DeepEqual(got, z) {
		t.Fatalf("%+v\n%+v\n%v", got, z, err)
	}
}
