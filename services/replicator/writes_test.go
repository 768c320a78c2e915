package replicator_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestTheReplicatorTellsHowMuchAGroupWrites(t *testing.T) {
	w := newWorld(t)
	w.start("a")
	w.start("b")
	disk := w.promote("a", 257)
	data := bytes.Repeat([]byte("x"), 1<<20)
	if err := errors.Join(disk.Write(t.Context(), data, 0, false), disk.Write(t.Context(), data[:4096], 0, false)); err != nil {
		t.Fatal(err)
	}
	var reply api.WritesReply
	w.until("the writes are recorded", func() bool {
		var err error
		reply, err = call[api.WritesReply](w, "a", api.VerbWrites, api.GroupRequest{})
		return err == nil && len(reply.Groups) == 1 && reply.Groups[0].Hour.Writes.Max > 0
	})
	g := reply.Groups[0]
	hour := func(rate float64) float64 { return rate * g.Hour.Covered }
	if got := hour(g.Hour.Bytes.Mean); got < 1<<20 || got > 1<<20+8192 {
		t.Errorf("%.0f bytes were written, want 1 MiB and 4 KiB, or the first without the second: %+v", got, g.Hour)
	}
	if g.Group != "erp" || g.Week.PeakSecond < 1<<20 || g.Hour.Frames.Max < g.Hour.Bytes.Max {
		t.Errorf("told %+v", g)
	}
	if there, err := call[api.WritesReply](w, "b", api.VerbWrites, api.GroupRequest{Group: "erp"}); err != nil || there.Groups[0].Hour.Covered != 0 {
		t.Errorf("a target records nothing: %+v, %v", there, err)
	}
}

func TestALinkIsSurveyedBesideReplication(t *testing.T) {
	w := newWorld(t)
	w.start("a")
	w.start("b")
	disk := w.promote("a", 257)
	if err := disk.Write(t.Context(), bytes.Repeat([]byte("x"), 1<<20), 0, false); err != nil {
		t.Fatal(err)
	}
	w.until("the writes are recorded", func() bool {
		r, err := call[api.WritesReply](w, "a", api.VerbWrites, api.GroupRequest{Group: "erp"})
		return err == nil && r.Groups[0].Hour.Writes.Max > 0
	})
	surveyed := make(chan error, 1)
	var s api.SurveyReply
	go func() {
		var err error
		s, err = call[api.SurveyReply](w, "a", api.VerbSurvey, api.SurveyRequest{To: "b", DurationNs: int64(time.Second)})
		surveyed <- err
	}()
	if err := disk.Write(t.Context(), make([]byte, 4096), 4096, false); err != nil { // goes on meanwhile
		t.Fatal(err)
	}
	if err := <-surveyed; err != nil {
		t.Fatal(err)
	}
	if s.Link.RoundTrip.Sent < 3 || s.Link.RoundTrip.P50 <= 0 || s.Link.RoundTrip.P99 < s.Link.RoundTrip.P50 || s.Link.DistanceKm <= 0 {
		t.Errorf("round trips: %+v", s.Link)
	}
	if len(s.Groups) != 1 || s.Groups[0].Group != "erp" || s.Groups[0].Mode != domain.ModeSync || s.Groups[0].Recorded < 1 || s.Groups[0].Advice == "" || len(s.Groups[0].Reasons) == 0 {
		t.Errorf("advice: %+v", s.Groups)
	}
	for name, r := range map[string]api.SurveyRequest{"itself": {To: "a"}, "nowhere": {To: "z"}, "for a day": {To: "b", DurationNs: int64(24 * time.Hour)}} {
		if _, err := call[api.SurveyReply](w, "a", api.VerbSurvey, r); !errors.Is(err, domain.ErrInvalid) && !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a survey of %s: %v", name, err)
		}
	}
}
