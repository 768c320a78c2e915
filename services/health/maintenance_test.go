package health

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestMaintenanceWindowsAreDurableEndByThemselvesAndSpread(t *testing.T) {
	dir, at := t.TempDir(), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	open := func(dir string, site domain.SiteID) *windows {
		t.Helper()
		w, err := openWindows(dir, site, at)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	a := open(dir, "a")
	host := api.Part{Kind: "host", Site: "a", ID: "h1"}
	m, err := a.change(at, api.MaintenanceChange{About: host, For: time.Hour, Why: "memory", By: "alice"}, "a.operator")
	if err != nil || m.By != "a.operator" || m.Claimed != "alice" {
		t.Fatalf("%+v, %v", m, err)
	}
	again, b := open(dir, "a"), open(t.TempDir(), "b")
	if err := b.learn(at, again.list(at)); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*windows{again, b} {
		if got := w.active(at.Add(59 * time.Minute)); len(got) != 1 || got[0] != host {
			t.Fatalf("site %s: %v", w.site, got)
		}
		if got := w.active(at.Add(time.Hour)); len(got) != 0 {
			t.Fatalf("site %s: not over: %v", w.site, got)
		}
	}
	if _, err := b.change(at, api.MaintenanceChange{End: m.ID}, "b.operator"); err != nil {
		t.Fatal(err)
	}
	if err := again.learn(at, b.list(at)); err != nil {
		t.Fatal(err)
	}
	if err := b.learn(at, a.list(at)); err != nil { // an old word does not open it again
		t.Fatal(err)
	}
	if len(again.active(at)) != 0 || len(b.active(at)) != 0 || len(open(dir, "a").active(at)) != 0 {
		t.Fatal("an ended window is open")
	}
	if over := b.over(at.Add(time.Hour)); len(over) != 0 || len(b.all) != 0 {
		t.Fatalf("ended by a person, and told again: %v", over)
	}
}

func TestMaintenanceThatCannotBeIsRefused(t *testing.T) {
	at := time.Unix(1e9, 0)
	w, err := openWindows(t.TempDir(), "a", at)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change api.MaintenanceChange
		want   error
	}{
		{api.MaintenanceChange{}, domain.ErrInvalid},
		{api.MaintenanceChange{For: 8 * 24 * time.Hour}, domain.ErrInvalid},
		{api.MaintenanceChange{End: "a-1"}, domain.ErrNotFound},
	} {
		if _, err := w.change(at, c.change, ""); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.change, err, c.want)
		}
	}
	s := &service{cfg: testConfig("a"), windows: w}
	for _, c := range []struct {
		change api.MaintenanceChange
		want   error
	}{
		{api.MaintenanceChange{About: api.Part{Kind: "site", Site: "b", ID: "b"}, For: time.Hour}, domain.ErrInvalid}, // no why
		{api.MaintenanceChange{About: api.Part{Kind: "site", Site: "z", ID: "z"}, Why: "x"}, domain.ErrNotFound},
		{api.MaintenanceChange{About: api.Part{Kind: "link", ID: "a-z"}, Why: "x"}, domain.ErrNotFound},
		{api.MaintenanceChange{About: api.Part{Kind: "moon", Site: "a", ID: "x"}, Why: "x"}, domain.ErrInvalid},
		{api.MaintenanceChange{About: api.Part{Kind: "site", Site: "b", ID: "a"}, Why: "x"}, domain.ErrInvalid},
	} {
		if err := s.mayMaintain(c.change); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.change, err, c.want)
		}
	}
	for range maxWindows {
		if _, err := w.change(at, api.MaintenanceChange{For: time.Hour}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.change(at, api.MaintenanceChange{For: time.Hour}, ""); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("more windows than are kept: %v", err)
	}
}

// While a window is being written to a disk that hangs, what the other sites tell holds nobody up.
func TestLearningWaitsForNobodyWhoWrites(t *testing.T) {
	at := time.Unix(1e9, 0)
	w, err := openWindows("", "b", at)
	if err != nil {
		t.Fatal(err)
	}
	m := api.Maintenance{ID: "a-1", About: api.Part{Kind: "site", Site: "a", ID: "a"}, From: at, Until: at.Add(time.Hour), Why: "memory"}
	w.changing.Lock() // by who waits for the disk
	for range 20 {
		if err := w.learn(at, []api.Maintenance{m}); err != nil {
			t.Fatal(err)
		}
	}
	w.changing.Unlock()
	if len(w.all) != 0 {
		t.Fatal("learned beside who writes")
	}
	if err := w.learn(at, []api.Maintenance{m}); err != nil || len(w.active(at)) != 1 {
		t.Fatalf("not learned when it was told again: %v, %v", w.active(at), err)
	}
}

func TestAWindowThatIsOverIsNotOpenedAgain(t *testing.T) {
	dir, at := t.TempDir(), time.Unix(1e9, 0)
	w, err := openWindows(dir, "a", at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.change(at, api.MaintenanceChange{For: time.Hour}, ""); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]int{time.Minute: 1, time.Hour: 0} {
		if w, err = openWindows(dir, "a", at.Add(after)); err != nil || len(w.all) != want {
			t.Errorf("after %v: %d windows, %v, want %d", after, len(w.all), err, want)
		}
	}
}

func TestAWindowThatNobodyCanHaveAnnouncedIsNotBelieved(t *testing.T) {
	s := &service{cfg: testConfig("a")}
	good := api.Maintenance{ID: "b-k3", About: api.Part{Kind: "site", Site: "b", ID: "b"}, Why: "memory", By: "b.operator"}
	if !s.believable(good) {
		t.Fatal("a window of site b is not believed")
	}
	for name, change := range map[string]func(*api.Maintenance){
		"of no site":        func(m *api.Maintenance) { m.ID = "z-k3" },
		"without a number":  func(m *api.Maintenance) { m.ID = "b-!" },
		"about no site":     func(m *api.Maintenance) { m.About = api.Part{Kind: "site", Site: "z", ID: "z"} },
		"about nothing":     func(m *api.Maintenance) { m.About = api.Part{Kind: "moon", Site: "b", ID: "x"} },
		"without a reason":  func(m *api.Maintenance) { m.Why = "" },
		"with a long story": func(m *api.Maintenance) { m.Why = strings.Repeat("x", maxText+1) },
	} {
		m := good
		if change(&m); s.believable(m) {
			t.Errorf("%s: believed", name)
		}
	}
}
