package filevoter

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

var errClosed = errors.New("the voter has ended")

// Config describes the voter.
type Config struct {
	ID     core.VoterID
	Dir    string // durable; made when missing
	Mirror string // on tmpfs; "" keeps no mirror: after a restart the voter is busy for G
	BootID string
	Now    func() core.Instant
	Logger *slog.Logger
	Faults func(group domain.GroupID, p Point) error // tests only: an error stops the write there
}

// Voter votes for every (cluster, group) that asks. Its methods may be called from any goroutine; requests for one group
// are answered one after the other.
type Voter struct {
	cfg Config

	mu     sync.Mutex
	votes  map[key]*vote
	closed bool
}

type key struct {
	cluster string
	group   domain.GroupID
}

type vote struct {
	mu     sync.Mutex
	store  store
	v      *core.Voter // nil until loaded, and after a failed write
	failed bool        // a write failed: the mirror may be older than what was promised
	closed bool
}

// Open makes the directories and checks every record there is. A corrupt one does not fail Open: it is logged, and
// refused when it is asked for.
func Open(cfg Config) (*Voter, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open voter %s: %w", cfg.ID, err)
	}
	if cfg.Mirror != "" {
		if err := os.MkdirAll(cfg.Mirror, 0o700); err != nil {
			return nil, fmt.Errorf("open voter %s: mirror: %w", cfg.ID, err)
		}
	}
	v := &Voter{cfg: cfg, votes: map[key]*vote{}}
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*", "*.vote"))
	if err != nil {
		return nil, fmt.Errorf("open voter %s: %w", cfg.ID, err)
	}
	for _, f := range files {
		k := key{filepath.Base(filepath.Dir(f)), domain.GroupID(strings.TrimSuffix(filepath.Base(f), ".vote"))}
		if _, err := v.Record(k.cluster, k.group); err != nil {
			cfg.Logger.Error("voter refuses to vote for a group", "group", string(k.group), "error", err)
		}
	}
	return v, nil
}

// Close ends the voter and waits for the requests under way. Nothing is voted or written after it: another voter may open
// the records.
func (v *Voter) Close() {
	v.mu.Lock()
	v.closed = true
	votes := slices.Collect(maps.Values(v.votes))
	v.mu.Unlock()
	for _, n := range votes {
		n.mu.Lock()
		n.closed = true
		n.mu.Unlock()
	}
}

// ID is the voter's.
func (v *Voter) ID() core.VoterID { return v.cfg.ID }

func (v *Voter) vote(cluster string, group domain.GroupID) (*vote, error) {
	if !domain.ValidToken(cluster) || !domain.ValidToken(string(group)) {
		return nil, fmt.Errorf("vote for cluster %q group %q: not a name: %w", cluster, group, domain.ErrInvalid)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, refusal(errClosed)
	}
	k := key{cluster, group}
	if got := v.votes[k]; got != nil {
		return got, nil
	}
	dir := filepath.Join(v.cfg.Dir, cluster)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("vote for group %s: %w", group, err)
	}
	if err := durable.SyncDir(v.cfg.Dir); err != nil {
		return nil, fmt.Errorf("vote for group %s: %w", group, err)
	}
	n := &vote{store: store{path: filepath.Join(dir, string(group)+".vote"), bootID: v.cfg.BootID}}
	if v.cfg.Mirror != "" {
		n.store.mirror = filepath.Join(v.cfg.Mirror, cluster+"."+string(group))
	}
	if v.cfg.Faults != nil {
		n.store.fault = func(p Point) error { return v.cfg.Faults(group, p) }
	}
	v.votes[k] = n
	return n, nil
}

// load reads what is on disk when memory cannot be trusted. n.mu is held.
func (v *Voter) load(n *vote) error {
	if n.closed {
		return errClosed
	}
	if n.v != nil {
		return nil
	}
	now := v.cfg.Now()
	l, err := n.store.load(now)
	if err != nil {
		return err
	}
	if l.outdone {
		v.cfg.Logger.Error("vote record was older than the voter's last: an old copy was put back, or the file was removed. Written anew from memory, and the voter votes on",
			"file", n.store.path, "epoch", l.rec.Promised.String())
	}
	if n.failed {
		l.vol = core.Unknown(l.rec, now)
	}
	n.v = core.NewVoter(v.cfg.ID, l.rec, l.vol)
	return nil
}

// Handle answers one request for a group. An error means that no answer may be given: the request may be repeated, except
// when it wraps domain.ErrRefused (the record is corrupt) or domain.ErrInvalid.
func (v *Voter) Handle(cluster string, group domain.GroupID, req core.Request) (core.Response, error) {
	if !slices.Contains(core.Verbs(), req.Verb) {
		return core.Response{}, fmt.Errorf("vote for group %s: verb %q: %w", group, req.Verb, domain.ErrInvalid)
	}
	n, err := v.vote(cluster, group)
	if err != nil {
		return core.Response{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := v.load(n); err != nil {
		return core.Response{}, refusal(err)
	}
	out := n.v.Handle(v.cfg.Now(), req)
	if err := n.store.save(n.v.Record(), n.v.Volatile(), out.Persist, out.Mirror); err != nil {
		n.v, n.failed = nil, true
		v.cfg.Logger.Error("vote not stored", "group", string(group), "epoch", req.Epoch.String(), "error", err)
		return core.Response{}, fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
	}
	return out.Reply, nil
}

func refusal(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", domain.ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
}

// Record is the voter's record of a group, the zero record when it never voted. Errors as Handle.
func (v *Voter) Record(cluster string, group domain.GroupID) (core.Record, error) {
	n, err := v.vote(cluster, group)
	if err != nil {
		return core.Record{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := v.load(n); err != nil {
		return core.Record{}, refusal(err)
	}
	return n.v.Record(), nil
}

// Groups lists the groups of a cluster that this voter has met, sorted.
func (v *Voter) Groups(cluster string) []domain.GroupID {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []domain.GroupID
	for k := range v.votes {
		if k.cluster == cluster {
			out = append(out, k.group)
		}
	}
	slices.Sort(out)
	return out
}
