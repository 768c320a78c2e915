//go:build e2e

package prefix

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
)

// TestAForcedSiteServesAndWhatTheOthersHadIsKeptAside loses the primary and the witness, forces quorum at the other site, and lets the
// primary come back with writes that the other never had.
func TestAForcedSiteServesAndWhatTheOthersHadIsKeptAside(t *testing.T) {
	s := newSites(t, "async")
	urls := s.Serves("a")
	s.Follows("a", false)
	put(t, urls, "both have it", 0)
	s.Follows("a", false)
	s.Kill("b")
	put(t, urls, "a alone has it", 1<<19)
	s.Kill("a")
	s.Kill("w")

	s.Start("b")
	force := []string{"quorum", "force", sitestest.Group, "--voters", "b", "--lost", "a,w", "--down", "--prevented", "--why", "a test", "--by", "kim"}
	eventually(t, "b takes the request", func() error { // once it runs
		_, err := s.Run(append(force, "--output", "json")...)
		return err
	})
	var asked api.ForceStatus
	s.Must(&asked, append(force, "--accept-loss")...)
	if _, err := s.Run("quorum", "approve", asked.ID, "--by", "Kim"); err == nil || !strings.Contains(err.Error(), "somebody else has to approve") {
		t.Fatalf("kim approves what kim asked for: %v", err)
	}
	var done api.ForceStatus
	s.Must(&done, "quorum", "approve", asked.ID, "--by", "sam")
	if done.State != api.ForceDone || len(done.Outcomes) != 1 || done.Outcomes[0].Epoch.Force() != 1 {
		t.Fatalf("forced: %+v", done)
	}
	s.Must(nil, "run", "start", "--plan", sitestest.Plan, "--kind", "failover", "--from", "a", "--to", "b", "--accept-loss", "--reason", "test", "--timeout", "2m")
	put(t, s.Serves("b"), "b has it", 1<<19)
	if !forced(t, s) {
		t.Error("the status does not tell that quorum was forced")
	}
	if out, err := s.Run("quorum", "check"); err == nil || !bytes.Contains(out, []byte("Q29 error, erp")) {
		t.Errorf("quorum check does not warn: %v\n%s", err, out)
	}

	for _, id := range []string{"a", "w"} { // as after a boot
		if err := os.Remove(filepath.Join(s.Dir, id, "quorum", "boot-id")); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(product, "quorum", "prevent", "a", "on", "--why", "a test", "--offline", "--config", s.Config("a")).CombinedOutput(); err != nil {
		t.Fatalf("prevent: %v: %s", err, out)
	}
	s.Start("a", "w")
	served := false
	s.Until("the votes are restored, and a follows", func(g sitestest.Shown) bool {
		served = served || g.Copies["a"].Serving
		at := g.Copies["b"].Targets
		return len(at) == 1 && at[0].State == "streaming" && at[0].Lag == 0 && !forced(t, s)
	})
	if served {
		t.Error("a served after it came back")
	}
	var kept struct {
		Items []api.Quarantined `json:"items"`
	}
	s.Must(&kept, "quarantine", "list", sitestest.Group)
	if len(kept.Items) != 1 || kept.Items[0].Site != "a" || kept.Items[0].Writes != 1 {
		t.Errorf("kept aside: %+v, want the one write that a alone had", kept.Items)
	}
	s.Must(nil, "quorum", "prevent", "a", "off", "--why", "it follows b")
	s.Must(nil, "run", "start", "--plan", sitestest.Plan, "--kind", "failback", "--from", "b", "--to", "a", "--accept-loss", "--reason", "test", "--timeout", "2m")
	want(t, s.Serves("a"), "b has it", 1<<19)
}

// put writes a text on the group's first disk.
func put(t *testing.T, urls []string, text string, off int64) {
	t.Helper()
	disks := dial(t, urls[:1])
	defer hangUp(disks)
	if err := disks[0].Write(t.Context(), block(text), off, false); err != nil {
		t.Fatal(err)
	}
}

// want reads it back.
func want(t *testing.T, urls []string, text string, off int64) {
	t.Helper()
	disks := dial(t, urls[:1])
	defer hangUp(disks)
	got := make([]byte, blockSize)
	if _, err := disks[0].ReadAt(got, off); err != nil || !bytes.Equal(got, block(text)) {
		t.Errorf("at %d: %.20q, want %q: %v", off, got, text, err)
	}
}

func block(text string) []byte {
	return append([]byte(text), make([]byte, blockSize-len(text))...)
}

// forced reports whether any site that answers holds the group under votes that were forced.
func forced(t *testing.T, s *sitestest.Sites) bool {
	t.Helper()
	out, err := s.Run("status", "--output", "json")
	var st struct {
		Sites []struct {
			Quorum *api.QuorumStatus `json:"quorum"`
		} `json:"sites"`
	}
	if jerr := json.Unmarshal(out, &st); jerr != nil {
		t.Fatalf("status: %v: %v", jerr, err)
	}
	for _, one := range st.Sites {
		if one.Quorum == nil {
			continue
		}
		for _, l := range one.Quorum.Groups {
			if l.Held && !l.Forced {
				return false
			}
		}
	}
	return true // nobody holds it: not healed
}

// eventually waits until a command does.
func eventually(t *testing.T, what string, does func() error) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := does()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond) // the command is a process of its own
	}
}
