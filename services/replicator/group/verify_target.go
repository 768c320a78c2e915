package group

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
)

// verified keeps the last trees that a comparison asked for, so that its questions about a stretch are answered from one.
type verified struct {
	mu      sync.Mutex
	session uint64
	trees   map[stretch]*hashmap.Tree
}

func (v *verified) get(session uint64, at stretch) *hashmap.Tree {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.session != session {
		return nil
	}
	return v.trees[at]
}

func (v *verified) put(session uint64, at stretch, t *hashmap.Tree) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.session != session || len(v.trees) >= treesKept {
		v.session, v.trees = session, map[stretch]*hashmap.Tree{}
	}
	v.trees[at] = t
}

// following gives the receiver that follows the primary of an epoch.
func (g *Group) following(epoch domain.Epoch) (*receiver, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.receiver == nil || g.receiver.epoch != epoch {
		return nil, fmt.Errorf("verify group %s: this copy does not follow epoch %s now: %w", g.id, epoch, domain.ErrUnavailable)
	}
	return g.receiver, nil
}

// VerifyHash answers a primary's question for sums of this copy as it is now, read from the medium where that is possible.
func (g *Group) VerifyHash(_ context.Context, r api.VerifyHash) (api.VerifySums, error) {
	if _, err := g.following(r.Epoch); err != nil {
		return api.VerifySums{}, err
	}
	if r.Volume >= len(g.store.vols()) {
		return api.VerifySums{}, fmt.Errorf("verify group %s: volume %d has not come here yet: %w", g.id, r.Volume, domain.ErrUnavailable)
	}
	q, err := hashmap.DecodeQuestion(r.Question)
	if err != nil || r.Volume < 0 || r.Offset < 0 || r.Offset%hashmap.Stretch != 0 || r.Offset >= g.store.sizes()[r.Volume] {
		return api.VerifySums{}, fmt.Errorf("verify group %s: stretch at %d of volume %d: %w", g.id, r.Offset, r.Volume, domain.ErrInvalid)
	}
	at := stretch{volume: r.Volume, off: r.Offset, length: min(hashmap.Stretch, g.store.sizes()[r.Volume]-r.Offset)}
	tree := g.verified.get(r.Session, at)
	if tree == nil {
		if tree, err = hashMedium(g.store.vols()[at.volume], at); err != nil {
			return api.VerifySums{}, fmt.Errorf("verify group %s: %w", g.id, err)
		}
		g.verified.put(r.Session, at, tree)
	}
	sums, err := tree.Answer(q)
	if err != nil {
		return api.VerifySums{}, fmt.Errorf("verify group %s: %w: %w", g.id, domain.ErrInvalid, err)
	}
	return api.VerifySums{Sums: sums}, nil
}

// hashMedium hashes a stretch after letting go of its clean pages, so that what the medium has is read.
func hashMedium(v *volume, at stretch) (*hashmap.Tree, error) {
	if c, err := v.f.SyscallConn(); err == nil { // the group may close it meanwhile
		_ = c.Control(func(fd uintptr) { _ = unix.Fadvise(int(fd), at.off, at.length, unix.FADV_DONTNEED) }) // advice
	}
	return hashStretch(v, at)
}

// exactWait bounds how long a target's volumes may take to show an LSN.
const exactWait = 3 * time.Second

// VerifyExact answers with the sums of blocks at one LSN, once the volumes show the one asked for.
func (g *Group) VerifyExact(ctx context.Context, r api.VerifyExact) (api.VerifySums, error) {
	follows, err := g.following(r.Epoch)
	if err != nil {
		return api.VerifySums{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, exactWait)
	defer cancel()
	for g.store.applied() < r.LSN {
		poke(follows.apply)
		if !sleep(ctx, 5*time.Millisecond) {
			return api.VerifySums{}, fmt.Errorf("verify group %s: the volumes show LSN %d, %d is asked for: %w", g.id, g.store.applied(), r.LSN, domain.ErrUnavailable)
		}
	}
	content, at, err := g.store.readExact(r.Volume, r.Blocks)
	if err != nil {
		return api.VerifySums{}, fmt.Errorf("verify group %s: %w", g.id, err)
	}
	if _, err := g.following(r.Epoch); err != nil { // another line may have begun meanwhile
		return api.VerifySums{}, err
	}
	out := api.VerifySums{LSN: at}
	for _, b := range content {
		s := hashmap.Of(b)
		out.Sums = append(out.Sums, s[:]...)
	}
	return out, nil
}
