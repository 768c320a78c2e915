package health

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// staged is one failure, and what each observer must conclude of each site: "a=incident host/h1", joined by "; "; sites that are well
// are left out.
type staged struct {
	name    string
	stage   func(*world)
	a, b, w string // as the observer there says; "sick" when it must doubt itself
}

func kill(what ...string) func(*world) {
	return func(w *world) {
		for _, x := range what {
			w.down[x] = true
		}
	}
}

func stagedFailures() []staged {
	host, rack := "a=incident host/h1", "a=incident rack/r1"
	return []staged{
		{"a host", kill("host/a/h1"), host, host, host},
		{"two hosts of different racks", kill("host/a/h1", "host/a/h3"), "a=incident host/h1 host/h3", "a=incident host/h1 host/h3", "a=incident host/h1 host/h3"},
		{"a rack", kill("rack/a/r1"), rack, rack, rack},
		{"hosts of a rack one after another", func(w *world) {
			w.down["host/a/h1"] = true
			w.later(4*time.Second, func() { w.down["host/a/h2"] = true })
		}, rack, rack, rack},
		{"a VM", kill("vm/a/vm-h1"), "a=service vm/vm-h1", "a=service vm/vm-h1", "a=service vm/vm-h1"},
		{"a service", kill("service/a/failover"), "a=service service/failover", "a=service service/failover", "a=service service/failover"},
		{"the quorum service of the witness", kill("service/w/quorum"), "w=service service/quorum", "w=service service/quorum", "w=service service/quorum"},
		{"the replicator", kill("service/b/replicator"), "b=incident replicator/replicator", "b=incident replicator/replicator", "b=incident replicator/replicator"},
		{"the storage port alone", kill("port/b/replicator"), "b=service port/replicator", "b=service port/replicator", "b=service port/replicator"},
		{"a health service", kill("service/a/health"), "gone", "a=service service/health", "a=service service/health"},
		{"a health service that hangs", func(w *world) { w.posts["w"].pausedTil = w.at + time.Minute }, "w=service service/health", "w=service service/health", "gone"},
		{"a site's server", kill("server/a"), "sick", "a=service service/nats", "a=service service/nats"},
		{"a link", kill("cut/a>b", "cut/b>a"), "a=link link/a-b; b=link link/a-b", "a=link link/a-b; b=link link/a-b", "a=link link/a-b; b=link link/a-b"},
		{"a link to the witness", kill("cut/w>b", "cut/b>w"), "b=link link/b-w; w=link link/b-w", "b=link link/b-w; w=link link/b-w", "b=link link/b-w; w=link link/b-w"},
		{"a host and a link", kill("host/a/h1", "cut/w>b", "cut/b>w"), host + "; b=link link/b-w; w=link link/b-w", host + "; b=link link/b-w; w=link link/b-w", host + "; b=link link/b-w; w=link link/b-w"},
		{"site a", kill("site/a"), "gone", "a=disaster site/a", "a=disaster site/a"},
		{"site b", kill("site/b"), "b=disaster site/b", "gone", "b=disaster site/b"},
		{"the witness", kill("site/w"), "w=disaster site/w", "w=disaster site/w", "gone"},
		{"site a cut off", kill("cut/a>b", "cut/b>a", "cut/a>w", "cut/w>a"), "sick", "a=disaster site/a", "a=disaster site/a"},
		{"the second observer starved, and a host", func(w *world) {
			w.posts["w"].starved = 800 * time.Millisecond
			w.down["host/a/h1"] = true
		}, host, host, "sick"},
		{"site a, while the second observer is starved", func(w *world) {
			w.posts["w"].starved = 800 * time.Millisecond
			w.later(5*time.Second, func() { w.down["site/a"] = true })
		}, "gone", "", "sick"},
		{"a host under maintenance", func(w *world) {
			w.maintain(api.Part{Kind: "host", Site: "a", ID: "h1"})
			w.down["host/a/h1"] = true
		}, "", "", ""},
		{"a site under maintenance", func(w *world) {
			w.maintain(api.Part{Kind: "site", Site: "b", ID: "b"})
			w.later(2*time.Second, func() { w.down["site/b"] = true })
		}, "", "gone", ""},
		{"a link under maintenance", func(w *world) {
			w.maintain(api.Part{Kind: "link", ID: "a-b"})
			kill("cut/a>b", "cut/b>a")(w)
		}, "", "", ""},
	}
}

// maintain announces a window of ten minutes at site a; the others learn it from its view.
func (w *world) maintain(p api.Part) {
	if _, err := w.posts["a"].obs.windows.change(w.now().wall, api.MaintenanceChange{About: p, For: 10 * time.Minute, Why: "test"}, "a.operator"); err != nil {
		w.t.Fatal(err)
	}
}

// concluded is what an observer says of every site that is not well.
func (w *world) concluded(s domain.SiteID) string {
	if w.isDown("site/"+string(s), "service/"+string(s)+"/health") || w.at < w.posts[s].pausedTil {
		return "gone"
	}
	st := w.posts[s].obs.Status(w.now())
	if st.View.Sick {
		return "sick"
	}
	var out []string
	for _, a := range st.Assessments {
		if a.Class != api.ClassNone {
			out = append(out, fmt.Sprintf("%s=%s %s", a.Site, a.Class, strings.Join(a.Parts, " ")))
		}
	}
	return strings.Join(out, "; ")
}

func stagedWorld(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed, DefaultTiming(), nil, Host{ID: "h1", Rack: "r1"}, Host{ID: "h2", Rack: "r1"}, Host{ID: "h3", Rack: "r2"})
	w.run(10 * time.Second)
	for _, s := range w.sites {
		if got := w.concluded(s); got != "" {
			t.Fatalf("site %s before anything happens: %s", s, got)
		}
	}
	return w
}

func TestEachStagedFailureIsNamedRightly(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: stages every failure for three observers; the full tests run it")
	}
	for i, c := range stagedFailures() {
		t.Run(c.name, func(t *testing.T) {
			w := stagedWorld(t, uint64(i))
			before := w.at
			c.stage(w)
			w.run(20 * time.Second)
			for s, want := range map[domain.SiteID]string{"a": c.a, "b": c.b, "w": c.w} {
				if got := w.concluded(s); got != want {
					t.Errorf("site %s\ngot  %q\nwant %q\ntold %v", s, got, want, w.posts[s].said(before))
				}
			}
			if !strings.Contains(c.a+c.b+c.w, api.ClassDisaster) && w.count("disaster.confirmed") > 0 {
				t.Errorf("a disaster was confirmed")
			}
		})
	}
}

func TestAMaintenanceWindowThatPassesSilencesNothingMore(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: watches three sites for eleven minutes; the full tests run it")
	}
	w := stagedWorld(t, 1)
	w.maintain(api.Part{Kind: "rack", Site: "a", ID: "r1"})
	kill("rack/a/r1")(w)
	w.run(5 * time.Minute)
	for _, s := range w.sites {
		if got := w.concluded(s); got != "" {
			t.Fatalf("site %s in the window: %s", s, got)
		}
	}
	if st := w.posts["w"].obs.Status(w.now()); !slices.Equal(st.Assessments[0].Maintained, []string{"rack:a/r1"}) || len(st.Maintenance) != 1 {
		t.Fatalf("site w does not say so: %+v", st.Assessments[0])
	}
	w.run(6 * time.Minute)
	for _, s := range w.sites {
		if got := w.concluded(s); got != "a=incident rack/r1" {
			t.Fatalf("site %s after the window: %q", s, got)
		}
	}
}

func TestADisasterUnderMaintenanceIsToldWhenAPersonEndsTheWindow(t *testing.T) {
	w := stagedWorld(t, 2)
	w.maintain(api.Part{Kind: "site", Site: "b", ID: "b"})
	w.run(2 * time.Second)
	kill("site/b")(w)
	w.run(time.Minute)
	if w.count("disaster.") > 0 {
		t.Fatalf("a disaster was told: %v", w.posts["a"].said(0))
	}
	id := w.posts["a"].obs.windows.list(w.now().wall)[0].ID
	if _, err := w.posts["a"].obs.windows.change(w.now().wall, api.MaintenanceChange{End: id, Why: "done"}, "a.operator"); err != nil {
		t.Fatal(err)
	}
	w.run(5 * time.Second)
	for _, s := range []domain.SiteID{"a", "w"} {
		if got := w.concluded(s); got != "b=disaster site/b" {
			t.Fatalf("site %s: %q", s, got)
		}
	}
}

func TestEvidenceSaysWhoSawWhatAndWhoseWordDidNotCount(t *testing.T) {
	w := stagedWorld(t, 3)
	w.posts["w"].starved = 800 * time.Millisecond
	w.run(10 * time.Second)
	kill("site/a")(w)
	w.run(10 * time.Second)
	w.posts["w"].starved = 0
	w.run(20 * time.Second)
	var confirmed *assess.Change
	for _, s := range w.posts["b"].told {
		if s.Entity == assess.EntityDisaster && s.Fact == assess.FactConfirmed {
			confirmed = &s.Change
		}
	}
	if confirmed == nil {
		t.Fatalf("not confirmed: %v", w.posts["b"].said(0))
	}
	for _, x := range confirmed.Witnesses {
		if !x.Counted || x.Confidence <= 0.5 || len(x.Observations) != 2 {
			t.Fatalf("%+v", x)
		}
		for _, o := range x.Observations {
			if o.State != api.StateDead || o.Suspicion < 8 || o.FirstMissed.IsZero() {
				t.Fatalf("%+v", o)
			}
		}
	}
	kept := openRecords(t.TempDir(), "b", nil)
	e := kept.add(w.now().wall, *confirmed)
	kept.flush()
	again := openRecords(kept.dir[:len(kept.dir)-len("/evidence")], "b", nil)
	got, err := again.find(api.EvidenceRequest{ID: e.ID})
	if err != nil || len(got.Evidence[0].Witnesses) != 2 || !got.Evidence[0].FirstMissed.Equal(confirmed.FirstMissed) {
		t.Fatalf("after a restart: %+v, %v", got, err)
	}
	if _, err := again.find(api.EvidenceRequest{ID: "b-none"}); err == nil {
		t.Fatal("a document that is not there was found")
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	r := openRecords(t.TempDir(), "b", nil)
	for range maxEvidence + 10 {
		r.add(time.Unix(1e9, 0), assess.Change{Entity: assess.EntityIncident, Fact: assess.FactOpened})
		r.flush()
	}
	again := openRecords(r.dir[:len(r.dir)-len("/evidence")], "b", nil)
	if len(again.kept) != maxEvidence || again.kept[0].ID != r.kept[0].ID {
		t.Fatalf("%d kept", len(again.kept))
	}
}
