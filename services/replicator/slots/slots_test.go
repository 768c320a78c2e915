package slots

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func add(index int, id string) Change {
	return Change{Index: index, ID: domain.VolumeID(id), SizeBytes: 1 << 20}
}

func remove(index int, id string) Change {
	c := add(index, id)
	c.Remove = true
	return c
}

// grown is data from the beginning, x from 10 on to 20, y from 30 on.
func grown(t *testing.T) Table {
	t.Helper()
	table := Of([]domain.Volume{{ID: "data", SizeBytes: 1 << 20}})
	for _, step := range []struct {
		c   Change
		lsn domain.LSN
	}{{add(1, "x"), 10}, {remove(1, "x"), 20}, {add(2, "y"), 30}} {
		var err error
		if table, err = table.Apply(step.c, step.lsn, 257); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func TestATableTellsWhatItWasAfterAnyChange(t *testing.T) {
	table := grown(t)
	for lsn, want := range map[domain.LSN]string{0: "data", 9: "data", 10: "data x", 19: "data x", 20: "data -x", 29: "data -x", 30: "data -x y", 99: "data -x y"} {
		var names []string
		for _, s := range table.At(lsn) {
			name := string(s.ID)
			if s.Gone != 0 {
				name = "-" + name
			}
			names = append(names, name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("after %d: %s, want %s", lsn, got, want)
		}
	}
}

func TestAChangeThatIsMadeAgainChangesNothing(t *testing.T) {
	table := grown(t)
	for _, step := range []struct {
		c   Change
		lsn domain.LSN
	}{{add(1, "x"), 10}, {remove(1, "x"), 20}, {add(2, "y"), 30}} {
		again, err := table.Apply(step.c, step.lsn, 257)
		if err != nil || !reflect.DeepEqual(again, table) {
			t.Fatalf("%+v again: %v %v", step.c, again, err)
		}
	}
}

func TestAnIndexIsNeverGivenToAnotherVolume(t *testing.T) {
	table := grown(t)
	for name, c := range map[string]Change{
		"another volume at an index": add(2, "z"), "the same name later": add(1, "x"), "a gap": add(4, "z"), "a name that was removed": add(3, "x"),
		"remove another": remove(2, "x"), "remove what is not there": remove(3, "z"), "remove it again": remove(1, "x"),
	} {
		if _, err := table.Apply(c, 40, 257); !errors.Is(err, domain.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVolumesOfOneNameOfTwoLinesAreNotTheSame(t *testing.T) {
	ours := Table{{ID: "data"}, {ID: "x", Born: 10, Epoch: 257}}
	theirs := Table{{ID: "data"}, {ID: "x", Born: 10, Epoch: 514}}
	if n := ours.Shared(theirs); n != 1 {
		t.Fatalf("%d slots are the same", n)
	}
	if n := ours.Shared(append(Table{}, ours[0])); n != 1 {
		t.Fatalf("%d slots are the same as a prefix's", n)
	}
}

func TestAChangeFitsAMarkerAndIsReadAsItWasWritten(t *testing.T) {
	c := Change{Index: MaxSlots - 1, ID: domain.VolumeID(strings.Repeat("v", 32)), SizeBytes: domain.MaxVolumeBytes, Remove: true}
	b := c.Encode()
	if len(b) > 256 {
		t.Fatalf("%d bytes", len(b))
	}
	if got, err := Decode(b); err != nil || got != c {
		t.Fatalf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "{}", `{"index":-1,"id":"x","size_bytes":4096}`, `{"index":1,"id":"x/y","size_bytes":4096}`, `{"index":1,"id":"x","size_bytes":5}`,
		`{"index":1,"id":"x","size_bytes":4611686018427387904}`} {
		if _, err := Decode([]byte(bad)); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzDecode: never panics, and a change that is taken is read again from what Encode makes of it, and fits a table without taking
// more memory than a volume's slot.
func FuzzDecode(f *testing.F) {
	f.Add(add(1, "x").Encode())
	f.Add(remove(1, "x").Encode())
	f.Add([]byte(`{"index":4095,"id":"x","size_bytes":9223372036854771712}`))
	f.Add([]byte(`{"INDEX":1,"id":"x","id":"y","size_bytes":4096}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			if !errors.Is(err, domain.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if again, err := Decode(c.Encode()); err != nil || again != c {
			t.Fatalf("%+v became %+v (%v)", c, again, err)
		}
		table := Table{{ID: "data", SizeBytes: 1 << 20}, {ID: "x", SizeBytes: 4096, Born: 10, Epoch: 257}}
		after, err := table.Apply(c, 20, 257)
		if err != nil {
			if !errors.Is(err, domain.ErrRefused) {
				t.Fatalf("%v is not ErrRefused", err)
			}
			return
		}
		if err := after.Check(); err != nil || len(after) > len(table)+1 || table.Shared(after) != len(table) {
			t.Fatalf("%+v made %+v of the table (%v)", c, after, err)
		}
	})
}

func TestATableFromElsewhereIsHeldToWhatOneMayBe(t *testing.T) {
	if err := grown(t).Check(); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Table{
		"too many": make(Table, MaxSlots+1), "negative": {{ID: "data", SizeBytes: -(1 << 40)}}, "nothing": {{ID: "data"}},
		"larger than any disk": {{ID: "data", SizeBytes: domain.MaxVolumeBytes + 1}}, "a path": {{ID: "../data", SizeBytes: 4096}},
	} {
		if err := bad.Check(); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
