package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestSurveyIsPrintedForPeople(t *testing.T) {
	s := api.SurveyReply{From: "a", To: "b", Link: api.LinkMeasure{RoundTrip: api.RoundTrips{Sent: 200, Lost: 1, Min: 0.5, P50: 0.6, P99: 1.25, Max: 3, Jitter: 0.04},
		Out: api.Bandwidth{BytesPerSecond: 98.2e6, AtLeast: true}, Back: api.Bandwidth{Skipped: 8}, DistanceKm: 51},
		Groups: []api.GroupAdvice{{Group: "erp", Mode: domain.ModeAsync, RPOTarget: 5, MeanRate: 1e6, PeakRate: 6e6, Advice: api.AdviseSync,
			Sync: api.SyncAdvice{AddedP50: 0.62, AddedP99: 1.3, MaxDistanceKm: 502}, Async: api.AsyncAdvice{RPO: 0.08}, Journal: api.JournalAdvice{Needs: 6e9, Has: 64 << 20}, Reasons: []string{"because"}}}}
	var out bytes.Buffer
	if err := printSurvey(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"p99 1.25", "1 of 200 lost", "51 km", "98.2 MB/s or more", "not measured: replication needed the link", "erp", "sync", "0.62 ms", "502 km", "0.08 s", "5 s", "6.0 GB", "67.1 MB", "erp: because"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in:\n%s", part, out.String())
		}
	}
	out.Reset()
	s.Groups = nil
	if err := printSurvey(&out, s); err != nil || !strings.Contains(out.String(), "No group was served at site a") {
		t.Errorf("without groups: %v\n%s", err, out.String())
	}
}

func TestSurveyWantsTwoSitesAndASaneLimit(t *testing.T) {
	for _, args := range [][]string{{"link", "survey", "a"}, {"link", "survey", "a", "b", "--rate-limit", "fast"}, {"link", "survey", "a", "b", "--rate-limit", "0B"}, {"link", "survy"}} {
		root := newRoot()
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); exitCode(err) != 2 {
			t.Errorf("holdfast %v: exit %d, %v", args, exitCode(err), err)
		}
	}
}
