package core

import (
	"fmt"
	"slices"

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

// Kind is what a voter is.
type Kind string

// The kinds of voters. Nodes and witnesses run code of ours beside their disk; disks, shares and objects are passive.
const (
	KindNode    Kind = "node"    // the quorum service of a data site
	KindWitness Kind = "witness" // the quorum service of a witness site
	KindShare   Kind = "share"   // a directory on a share
	KindDisk    Kind = "disk"    // a small LUN of an iSCSI target
	KindObject  Kind = "object"  // an object in a bucket
)

// Passive reports whether a voter of the kind runs no code of its own.
func (k Kind) Passive() bool { return k == KindShare || k == KindDisk || k == KindObject }

// Member is a voter of a model as the configuration names it.
type Member struct {
	ID     VoterID
	Kind   Kind
	Weight *int // nil: what the model gives
}

// Arrange is the configuration of a model over its members, with the weights that they are given in place of the model's. A
// member of weight 0 has no vote. A witness service is the extra vote of node and file-share majority, a node like any
// other of node majority, and has no vote beside a disk unless it is given one.
func Arrange(m Model, members []Member) (Config, error) {
	var nodes, idle []VoterID
	var extra VoterID
	for _, v := range members {
		want := extraKinds(m)
		switch {
		case v.Kind == KindWitness && slices.Contains(want, KindDisk):
			idle = append(idle, v.ID)
		case v.Kind == KindNode, v.Kind == KindWitness && !slices.Contains(want, KindWitness):
			nodes = append(nodes, v.ID)
		case !slices.Contains(want, v.Kind):
			return Config{}, fmt.Errorf("quorum model %s: takes no %s, got %s: %w", m, v.Kind, v.ID, domain.ErrInvalid)
		case extra != "":
			return Config{}, fmt.Errorf("quorum model %s: more than one disk, share, object or witness (%s, %s): %w", m, extra, v.ID, domain.ErrInvalid)
		default:
			extra = v.ID
		}
	}
	cfg, err := Preset(m, nodes, extra)
	if err != nil {
		return Config{}, err
	}
	for _, id := range idle {
		cfg.Weights[id] = 0
	}
	for _, v := range members {
		if v.Weight == nil {
			continue
		}
		if *v.Weight < 0 || *v.Weight > MaxWeight {
			return Config{}, fmt.Errorf("quorum model %s: weight %d of %s: want 0 to %d: %w", m, *v.Weight, v.ID, MaxWeight, domain.ErrInvalid)
		}
		cfg.Weights[v.ID] = *v.Weight
	}
	return cfg, cfg.hasVotes(m)
}

// MaxWeight is the most votes that one voter may have.
const MaxWeight = 100

// extraKinds are the kinds of the one voter that a model has beside its nodes.
func extraKinds(m Model) []Kind {
	switch m {
	case NodeAndDiskMajority, DiskOnly:
		return []Kind{KindDisk}
	case NodeAndShareMajority:
		return []Kind{KindShare, KindObject, KindWitness}
	case NodeMajority:
	}
	return nil
}

func (c Config) hasVotes(m Model) error {
	if _, total := c.Weights.Count(func(VoterID) bool { return true }); total == 0 {
		return fmt.Errorf("quorum model %s: no votes: %w", m, domain.ErrInvalid)
	}
	return nil
}

// Preset is the configuration of a model. extra is the one disk, share, object or witness service of the models that have one.
//
//	node-majority                  every node 1
//	node-and-disk-majority         every node 1, the disk 1
//	node-and-file-share-majority   every node 1, the share (or object, or witness service) 1
//	disk-only                      the disk 1, every node 0
func Preset(m Model, nodes []VoterID, extra VoterID) (Config, error) {
	w := make(Weights, len(nodes)+1)
	for _, n := range nodes {
		w[n] = 1
	}
	needExtra := m != NodeMajority
	switch {
	case needExtra && extra == "":
		return Config{}, fmt.Errorf("quorum model %s: needs a disk, share, object or witness: %w", m, domain.ErrInvalid)
	case !needExtra && extra != "":
		return Config{}, fmt.Errorf("quorum model %s: takes no disk, share, object or witness, got %s: %w", m, extra, domain.ErrInvalid)
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
	return cfg, cfg.hasVotes(m)
}
