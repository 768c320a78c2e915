package store

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

func written(t *testing.T) (path string, z zone.Zone) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state", "zone")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	z, found, err := f.Load("hf.example")
	if err != nil || found {
		t.Fatalf("found %v, %v", found, err)
	}
	z, _, err = z.Apply(zone.Change{Name: "erp.hf.example", Type: zone.A, New: "10.0.0.1", Group: "erp", Epoch: domain.NewEpoch(0, 1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Save(z); err != nil {
		t.Fatal(err)
	}
	return path, z
}

func load(t *testing.T, path, origin string) (zone.Zone, bool, error) {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f.Load(origin)
}

func TestWhatWasSavedIsLoaded(t *testing.T) {
	path, z := written(t)
	got, found, err := load(t, path, "HF.example.")
	if err != nil || !found || !reflect.DeepEqual(got, z) {
		t.Fatalf("%+v, found %v, %v; want %+v", got, found, err, z)
	}
}

func TestAHalfWrittenSuccessorIsForgotten(t *testing.T) {
	path, z := written(t)
	if err := os.WriteFile(path+tempSuffix, []byte("holdfast-zo"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, _, err := load(t, path, "hf.example")
	if err != nil || !reflect.DeepEqual(got, z) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := os.Stat(path + tempSuffix); err == nil {
		t.Fatal("still there")
	}
}

func TestEveryDamagedByteAndEveryTruncationIsNoticed(t *testing.T) {
	path, _ := written(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(raw []byte, what string, i int) {
		t.Helper()
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := load(t, path, "hf.example")
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%s %d: error %v", what, i, err)
		}
		if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Fatalf("%s %d: error %q names neither the file nor the mend", what, i, err)
		}
	}
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 0x10
		check(damaged, "byte", i)
		check(whole[:i], "truncated at", i)
	}
	check(append(append([]byte(nil), whole...), 0), "longer by", 1)
}

func TestAFileOfAnotherZoneIsRefused(t *testing.T) {
	path, _ := written(t)
	_, _, err := load(t, path, "other.example")
	if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "hf.example.") {
		t.Fatalf("error %v", err)
	}
}

func TestAFailedSaveNamesTheFileAndLeavesTheOldZone(t *testing.T) {
	path, z := written(t)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+tempSuffix, 0o700); err != nil { // the successor cannot be written
		t.Fatal(err)
	}
	next, _, err := z.Apply(zone.Change{Name: "erp.hf.example", Type: zone.A, Old: "10.0.0.1", New: "10.1.0.1", Group: "erp", Epoch: domain.NewEpoch(0, 2, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Save(next); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("error %v", err)
	}
	got, _, err := load(t, path, "hf.example")
	if err != nil || !reflect.DeepEqual(got, z) {
		t.Fatalf("%+v, %v", got, err)
	}
}
