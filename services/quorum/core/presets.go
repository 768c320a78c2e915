package core

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Model names a preset of weights. A quorum is always a strict majority of all votes.
type Model string

// The models.
const (
	NodeMajority         Model = "node-majority"
	NodeAndDiskMajority  Model = "node-and-disk-majority"
	NodeAndShareMajority Model = "node-and-file-share-majority"
	DiskOnly             Model = "disk-only"
)

// Preset is the configuration of a model. extra is the one disk, share or witness service of the models that have one.
//
//	node-majority                  every node 1
//	node-and-disk-majority         every node 1, the disk 1
//	node-and-file-share-majority   every node 1, the share (or witness service) 1
//	disk-only                      the disk 1, every node 0
func Preset(m Model, nodes []VoterID, extra VoterID) (Config, error) {
	w := make(Weights, len(nodes)+1)
	for _, n := range nodes {
		w[n] = 1
	}
	needExtra := m != NodeMajority
	switch {
	case needExtra && extra == "":
		return Config{}, fmt.Errorf("quorum model %s: needs a disk, share or witness: %w", m, domain.ErrInvalid)
	case !needExtra && extra != "":
		return Config{}, fmt.Errorf("quorum model %s: takes no disk, share or witness, got %s: %w", m, extra, domain.ErrInvalid)
	}
	switch m {
	case NodeMajority:
	case NodeAndDiskMajority, NodeAndShareMajority:
		w[extra] = 1
	case DiskOnly:
		for _, n := range nodes {
			w[n] = 0
		}
		w[extra] = 1
	default:
		return Config{}, fmt.Errorf("quorum model %q: unknown: %w", m, domain.ErrInvalid)
	}
	cfg := Config{Version: 1, Weights: w}
	if _, total := w.Count(func(VoterID) bool { return true }); total == 0 {
		return Config{}, fmt.Errorf("quorum model %s: no votes: %w", m, domain.ErrInvalid)
	}
	return cfg, nil
}
