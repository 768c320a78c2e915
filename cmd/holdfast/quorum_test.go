package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// withQuorum is the sample of site a with another section quorum.
func withQuorum(t *testing.T, quorum string) string {
	t.Helper()
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(sample), "quorum:\n")
	_, after, _ := strings.Cut(rest, "\n\n")
	file := filepath.Join(t.TempDir(), "site-a.yaml")
	if err := os.WriteFile(file, []byte(before+"quorum:\n  "+quorum+"\n\n"+after), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Each configuration is given to the command as a person would, and what it says is held to the field's advice.
func TestQuorumCheckWarnsOfWhatTheConfigurationShows(t *testing.T) {
	const disk = "disk: iscsi://10.0.0.5/iqn.2026-11.org.example:vote/0"
	for _, c := range []struct {
		name, quorum string
		code         int
		want, not    []string // codes that are raised, and that are well
	}{
		{"sample", "model: node_and_share_majority", 0, nil, []string{"Q01", "Q02", "Q05", "Q20", "Q21", "Q22"}},
		{"three and two", "model: node_majority\n  voters: [{id: a, weight: 3}, {id: b, weight: 2}, {id: w, weight: 0}]", 0, []string{"Q20", "Q21"}, []string{"Q01", "Q02", "Q03"}},
		{"even", "model: node_majority\n  voters: [{id: w, weight: 0}]", 0, []string{"Q01", "Q02", "Q03", "Q20"}, nil},
		{"witness in a protected vm", "model: node_and_share_majority\n  voters: [{id: w, vm: erp-db}]", 3, []string{"Q24"}, []string{"Q09"}},
		{"shared power", "model: node_and_share_majority\n  voters: [{id: a, on: [feed-1]}, {id: w, on: [feed-1]}]", 3, []string{"Q23"}, nil},
		{"disk", "model: node_and_disk_majority\n  " + disk + "\n  voters: [{id: disk, site: a, replicated: async}]", 3, []string{"Q06", "Q08", "Q30", "Q20"}, nil},
		{"own disk", "model: disk_only\n  disk: iscsi://127.0.0.1:3260/iqn.x:y/0", 3, []string{"Q07", "Q22", "Q30"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := holdfast(t.Context(), "quorum", "check", "--offline", "-o", "json", "--config", withQuorum(t, c.quorum))
			var r planner.Report
			if err := json.Unmarshal([]byte(o.stdout), &r); err != nil || o.code != c.code {
				t.Fatalf("exit %d, %v, %v: %s", o.code, o.err, err, o.stdout)
			}
			for _, code := range c.want {
				if !slices.ContainsFunc(r.Findings, func(f planner.Finding) bool { return f.Code == code && f.Severity != planner.NotKnown }) {
					t.Errorf("%s is not raised: %+v", code, r.Findings)
				}
			}
			for _, code := range c.not {
				if !slices.Contains(r.Clear, code) {
					t.Errorf("%s is not well: %+v", code, r.Findings)
				}
			}
			if len(r.Losses) == 0 || len(r.Partitions) == 0 || r.Live {
				t.Errorf("report is not whole: %s", o.stdout)
			}
		})
	}
	text := holdfast(t.Context(), "quorum", "check", "--offline", "--config", withQuorum(t, "model: node_majority"))
	if text.code != 0 || !strings.Contains(text.stdout, "a | b w    b w: quorum (2 of 3 votes): b may serve") || !strings.Contains(text.stdout, "mend:") {
		t.Errorf("exit %d: %s", text.code, text.stdout)
	}
}
