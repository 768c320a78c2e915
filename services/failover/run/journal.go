package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ErrSuperseded means that another leader wrote to the run: read it again before going on.
var ErrSuperseded = errors.New("another leader wrote to the run")

// headStep is the step name of a run's head record.
const headStep = "run"

// Stored is one record as it stands in the journal, for copying to other sites.
type Stored struct {
	Subject string
	Data    []byte
	ID      string // message id, from the content
	Seq     uint64
}

// Journal is the run journal of a site.
type Journal struct {
	conn   *bus.Conn
	stored func(Stored) // told of each record written or loaded
}

// NewJournal opens the journal on a site's own server. stored, if not nil, is told of each own record.
func NewJournal(conn *bus.Conn, stored func(Stored)) *Journal {
	if stored == nil {
		stored = func(Stored) {}
	}
	return &Journal{conn: conn, stored: stored}
}

const (
	appendTries = 30
	appendPause = 200 * time.Millisecond
)

// put writes a record whose predecessor has sequence last. A repeat of a record that was stored without the answer arriving
// succeeds. Errors: ErrSuperseded, domain.ErrUnavailable, ctx's.
func (j *Journal) put(ctx context.Context, subject string, v any, last uint64) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", subject, err)
	}
	sum := sha256.Sum256(append([]byte(subject+"\n"), data...))
	id := hex.EncodeToString(sum[:16])
	for try := 0; ; try++ {
		seq, err := j.conn.Append(ctx, subject, data, id, &last)
		if errors.Is(err, domain.ErrConflict) {
			r, lerr := j.conn.Last(ctx, api.StreamRuns, subject)
			if lerr == nil && bytes.Equal(r.Data, data) {
				seq, err = r.Seq, nil
			} else if lerr == nil {
				return 0, fmt.Errorf("write %s: %w", subject, ErrSuperseded)
			} else {
				err = lerr
			}
		}
		if err == nil {
			j.stored(Stored{Subject: subject, Data: data, ID: id, Seq: seq})
			return seq, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if !errors.Is(err, domain.ErrUnavailable) || try == appendTries {
			return 0, err
		}
		if err := clock.Sleep(ctx, appendPause); err != nil {
			return 0, err
		}
	}
}

// Create makes a run durable and hands it out for execution. domain.ErrConflict when there is one of that id.
func (j *Journal) Create(ctx context.Context, r api.Run) (*Live, error) {
	l := newLive(r)
	seq, err := j.put(ctx, api.RunSubject(r.Plan, r.ID, headStep), r, 0)
	if errors.Is(err, ErrSuperseded) {
		return nil, fmt.Errorf("create run %s: %w: there is one of that id", r.ID, domain.ErrConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("create run %s: %w", r.ID, err)
	}
	l.head = seq
	return l, nil
}

// Load reads the newest runs of the journal, copies of other sites' included, oldest first: at most limit. Those that skip
// (if not nil) names are left out.
func (j *Journal) Load(ctx context.Context, self domain.SiteID, limit int, skip func(domain.RunID) bool) ([]*Live, error) {
	subjects, err := j.conn.Subjects(ctx, api.StreamRuns, "hf.v1.run.*.*."+headStep)
	if err != nil {
		return nil, fmt.Errorf("load runs: %w", err)
	}
	heads := make([]string, 0, len(subjects))
	for s := range subjects {
		heads = append(heads, s)
	}
	slices.SortFunc(heads, func(a, b string) int { return strings.Compare(runOf(a), runOf(b)) })
	if len(heads) > limit {
		heads = heads[len(heads)-limit:]
	}
	var out []*Live
	for _, s := range heads {
		if skip != nil && skip(domain.RunID(runOf(s))) {
			continue
		}
		l, err := j.load(ctx, self, s)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// Find reads one run of any plan by its id. domain.ErrNotFound when there is none.
func (j *Journal) Find(ctx context.Context, self domain.SiteID, id domain.RunID) (*Live, error) {
	subjects, err := j.conn.Subjects(ctx, api.StreamRuns, "hf.v1.run.*."+string(id)+"."+headStep)
	if err != nil {
		return nil, fmt.Errorf("find run %s: %w", id, err)
	}
	for s := range subjects {
		return j.load(ctx, self, s)
	}
	return nil, fmt.Errorf("find run %s: %w", id, domain.ErrNotFound)
}

func runOf(subject string) string { return strings.Split(subject, ".")[4] }

// Reload reads one run again.
func (j *Journal) Reload(ctx context.Context, self domain.SiteID, p domain.PlanID, id domain.RunID) (*Live, error) {
	return j.load(ctx, self, api.RunSubject(p, id, headStep))
}

func (j *Journal) load(ctx context.Context, self domain.SiteID, head string) (*Live, error) {
	rec, err := j.conn.Last(ctx, api.StreamRuns, head)
	if err != nil {
		return nil, fmt.Errorf("load run %s: %w", runOf(head), err)
	}
	var r api.Run
	if err := json.Unmarshal(rec.Data, &r); err != nil {
		return nil, fmt.Errorf("load run %s: %w", runOf(head), err)
	}
	l := newLive(r)
	l.head = rec.Seq
	own := r.Leader == self
	if own {
		j.stored(storedOf(rec))
	}
	if r.State == api.StepRunning {
		if err := j.loadSteps(ctx, l, own); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (j *Journal) loadSteps(ctx context.Context, l *Live, own bool) error {
	written, err := j.conn.Subjects(ctx, api.StreamRuns, api.RunSubject(l.run.Plan, l.run.ID, "")+"*")
	if err != nil {
		return fmt.Errorf("load run %s: %w", l.run.ID, err)
	}
	for i := range l.run.Steps {
		subject := api.RunSubject(l.run.Plan, l.run.ID, l.run.Steps[i].ID)
		if written[subject] == 0 {
			continue
		}
		rec, err := j.conn.Last(ctx, api.StreamRuns, subject)
		if err != nil {
			return fmt.Errorf("load run %s: %w", l.run.ID, err)
		}
		var s api.Step
		if err := json.Unmarshal(rec.Data, &s); err != nil {
			return fmt.Errorf("load run %s step %s: %w", l.run.ID, l.run.Steps[i].ID, err)
		}
		l.apply(s, rec.Seq)
		if own {
			j.stored(storedOf(rec))
		}
	}
	return nil
}

func storedOf(rec bus.Record) Stored {
	sum := sha256.Sum256(append([]byte(rec.Subject+"\n"), rec.Data...))
	return Stored{Subject: rec.Subject, Data: rec.Data, ID: hex.EncodeToString(sum[:16]), Seq: rec.Seq}
}
