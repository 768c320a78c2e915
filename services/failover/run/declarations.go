package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// declarationStep is the last token of a declaration's subject, where a run has its step; in place of a plan it has the site that
// leads it.
const declarationStep = "declaration"

func declarationSubject(leader domain.SiteID, id domain.DeclarationID) string {
	return api.RunSubject(domain.PlanID(leader), domain.RunID(id), declarationStep)
}

// Declared is a declaration with the sequence its newest record has in the journal.
type Declared struct {
	api.Declaration
	Seq uint64
}

// PutDeclaration makes a declaration durable whose record before has sequence last (0: none), and gives the new one. A repeat
// succeeds. Errors: ErrSuperseded, domain.ErrUnavailable.
func (j *Journal) PutDeclaration(ctx context.Context, d api.Declaration, last uint64) (uint64, error) {
	seq, err := j.put(ctx, declarationSubject(d.Leader, d.ID), d, last)
	if err == nil || errors.Is(err, ErrSuperseded) || errors.Is(err, domain.ErrUnavailable) {
		return seq, err
	}
	return seq, fmt.Errorf("keep declaration %s: %w: %w", d.ID, domain.ErrUnavailable, err)
}

// LoadDeclarations reads the declarations that leader leads ("*": all, copies of other sites' included), oldest first: the newest limit
// ones, and of those before them what older (nil: none) names. Those that self leads are told to the pump. A record that cannot be read
// is left out, and bad says why.
func (j *Journal) LoadDeclarations(ctx context.Context, self, leader domain.SiteID, limit int, older func(api.Declaration) bool) (out []Declared, bad []error, err error) {
	subjects, err := j.conn.Subjects(ctx, api.StreamRuns, declarationSubject(leader, "*"))
	if err != nil {
		return nil, nil, fmt.Errorf("load declarations: %w", err)
	}
	names := slices.Collect(maps.Keys(subjects))
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(runOf(a), runOf(b)) })
	if len(names) > limit && older == nil {
		names = names[len(names)-limit:]
	}
	for i, s := range names {
		rec, err := j.conn.Last(ctx, api.StreamRuns, s)
		if ctx.Err() != nil || errors.Is(err, domain.ErrUnavailable) {
			return nil, nil, fmt.Errorf("load declaration %s: %w", runOf(s), err)
		}
		var d Declared
		if err == nil {
			d, err = declared(rec)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("load declaration %s: %w", runOf(s), err))
			continue
		}
		if i < len(names)-limit && !older(d.Declaration) {
			continue
		}
		if d.Leader == self {
			j.stored(storedOf(rec))
		}
		out = append(out, d)
	}
	return out, bad, nil
}

func declared(rec bus.Record) (Declared, error) {
	d := Declared{Seq: rec.Seq}
	err := json.Unmarshal(rec.Data, &d.Declaration)
	return d, err
}
