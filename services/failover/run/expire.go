package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Expire has the records of a run that has ended removed after a while, whole seconds, by the journal's server: nobody may delete from it.
// The head is the last, as the steps are found by it. domain.ErrRefused for a run that has not ended.
func (j *Journal) Expire(ctx context.Context, r api.Run, after time.Duration) error {
	if r.State == api.StepRunning || r.State == api.StepPending {
		return fmt.Errorf("remove run %s: %w: it has not ended", r.ID, domain.ErrRefused)
	}
	prefix := api.RunSubject(r.Plan, r.ID, "")
	subjects, err := j.conn.Subjects(ctx, api.StreamRuns, prefix+"*")
	if err != nil {
		return fmt.Errorf("remove run %s: %w", r.ID, err)
	}
	for s := range subjects {
		if s == prefix+headStep {
			continue
		}
		if err := j.expire(ctx, s, after); err != nil {
			return fmt.Errorf("remove run %s: %w", r.ID, err)
		}
	}
	if err := j.expire(ctx, prefix+headStep, after); err != nil {
		return fmt.Errorf("remove run %s: %w", r.ID, err)
	}
	return nil
}

// ExpireDeclaration does the same with a declaration.
func (j *Journal) ExpireDeclaration(ctx context.Context, d api.Declaration, after time.Duration) error {
	if !api.DeclarationEnded(d.State) {
		return fmt.Errorf("remove declaration %s: %w: it has not ended", d.ID, domain.ErrRefused)
	}
	if err := j.expire(ctx, declarationSubject(d.Leader, d.ID), after); err != nil {
		return fmt.Errorf("remove declaration %s: %w", d.ID, err)
	}
	return nil
}

func (j *Journal) expire(ctx context.Context, subject string, after time.Duration) error {
	rec, err := j.conn.Last(ctx, api.StreamRuns, subject)
	if errors.Is(err, domain.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return j.conn.Expire(ctx, rec, after)
}
