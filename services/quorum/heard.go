package quorum

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// groupNote is what a group's candidate has to know of its last life.
type groupNote struct {
	Boot     string       `json:"boot"`     // in which a voter of another site was heard
	Promised domain.Epoch `json:"promised"` // of the newest force generation heard of
}

const heardDir = "heard"

func (g *group) notePath() string { return filepath.Join(g.s.cfg.Dir, heardDir, string(g.id)) }

// noted reads it. Where nothing can be read the candidate starts cold.
func noted(path string) (n groupNote) {
	raw, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(raw, &n) != nil {
		n = groupNote{}
	}
	return n
}

func (n groupNote) write(path string) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(path, raw, 0o600)
	}
	return err
}

// forgetHeard makes every group start cold. What they know of forces stays.
func forgetHeard(dir string) error {
	notes, _ := filepath.Glob(filepath.Join(dir, heardDir, "*")) // the pattern is well-formed
	for _, path := range notes {
		n := noted(path)
		n.Boot = ""
		if err := n.write(path); err != nil {
			return fmt.Errorf("forget that other sites were heard: %w", err)
		}
	}
	return nil
}

// note makes it durable. What could not be noted costs another site's answer after a restart: the candidate starts cold.
func (g *group) note(a core.Warmed) {
	n := groupNote{Promised: a.Promised}
	if a.Heard {
		n.Boot = g.s.bootID
	}
	err := n.write(g.notePath())
	if err != nil {
		g.s.log.Error("not noted that another site was heard: a restart is a cold start", "group", string(g.id), "error", err)
		_ = os.Remove(g.notePath()) // an older note would be believed
	}
}

// heard tells the group's candidate of a force generation that the own voter knows of.
func (s *service) heard(b ballot, resp core.Response) {
	e := max(resp.Promised, resp.VEpoch)
	if b.Verb == core.Probe || e.Force() == 0 || b.Cluster != s.cfg.Cluster {
		return
	}
	if g := s.running(b.Group); g != nil {
		g.post(func() { g.do(g.c.Heard(s.instant(), e)) })
	}
}
