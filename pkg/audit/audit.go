// Package audit keeps the record of decisions: who, why, what and when, each entry with the hash of the one before it, in the
// site's stream HF_AUDIT, which nobody can delete from.
package audit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Entry is one line of the audit.
type Entry struct {
	Site domain.SiteID `json:"site"`
	Who  string        `json:"who"`
	Why  string        `json:"why"`
	What string        `json:"what"` // run_started, disaster_declared, run_start_refused, promoted.<group>.<epoch>, ...
	// Claimed is what the caller says of itself beside what it proved (Who): --by, a person's name.
	Claimed string `json:"claimed,omitempty"`
	// From is where the caller says it is: the name of its machine.
	From string          `json:"from,omitempty"`
	Run  domain.RunID    `json:"run"` // or the id of a declaration
	Data json.RawMessage `json:"data,omitempty"`
	When time.Time       `json:"when"`
	Prev string          `json:"prev"` // Hash of the entry before; empty for the first
	Hash string          `json:"hash"` // SHA-256 of the entry's JSON with Hash empty, in hex
}

// Sum is the hash an entry must have.
func (e Entry) Sum() (string, error) {
	e.Hash = ""
	raw, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("hash audit entry: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// Filter matches every entry about runs of a site: one chain.
func Filter(site domain.SiteID) string { return "hf.v1.audit." + string(site) + ".run.>" }

const tries = 10

// Unsigned is who called where requests are not signed.
const Unsigned = "unsigned"

// Who is the verified caller of the request that ctx is of, or Unsigned.
func Who(ctx context.Context) string {
	if c, ok := bus.CallerOf(ctx); ok {
		return c.String()
	}
	return Unsigned
}

const noteWithin = 20 * time.Second

// Note appends an entry in the background: an act does not wait for its record. What cannot be recorded is logged. Without
// a run the entry gets one of its own.
func Note(ctx context.Context, conn *bus.Conn, log *slog.Logger, e Entry) {
	if e.Run == "" {
		e.Run = domain.RunID(rand.Text())
	}
	if e.When.IsZero() {
		e.When = time.Now().UTC()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWithin)
	go func() {
		defer cancel()
		if err := Append(ctx, conn, e); err != nil {
			log.Warn("act not recorded in the audit", "what", e.What, "who", e.Who, "run", string(e.Run), "error", err)
		}
	}()
}

// Outcome is the What of an act that had its effect, was refused, or neither: empty for what failed and may be repeated.
func Outcome(done, refused string, err error) string {
	switch {
	case err == nil:
		return done
	case errors.Is(err, domain.ErrRefused), errors.Is(err, domain.ErrStaleEpoch), errors.Is(err, domain.ErrNoLease), errors.Is(err, domain.ErrInvalid):
		return refused
	}
	return ""
}

// Append adds an entry to the site's chain, once for each run and What: a repeat finds it there. Errors:
// domain.ErrUnavailable, domain.ErrConflict when others kept appending.
func Append(ctx context.Context, conn *bus.Conn, e Entry) error {
	e.Site = conn.Site()
	if e.When.IsZero() {
		e.When = time.Now().UTC()
	}
	subject := "hf.v1.audit." + string(e.Site) + ".run." + string(e.Run) + "." + api.Token(e.What)
	rec, err := conn.Last(ctx, api.StreamAudit, subject)
	if err == nil && e.stored(rec) {
		return nil
	}
	if err != nil && !errors.Is(err, domain.ErrNotFound) {
		return fmt.Errorf("append to audit: %w", err)
	}
	for range tries {
		err = appendOnce(ctx, conn, subject, e)
		if !errors.Is(err, domain.ErrConflict) {
			return err
		}
	}
	return err
}

// stored reports whether a record is this entry. What is no entry, or has another's hash, stands in nobody's way: it was not
// written by this package, and nothing else may keep an act out of the record.
func (e Entry) stored(rec bus.Record) bool {
	was, ok := genuine(rec)
	return ok && was.Site == e.Site && was.Run == e.Run && was.What == e.What
}

func genuine(rec bus.Record) (Entry, bool) {
	var e Entry
	if json.Unmarshal(rec.Data, &e) != nil {
		return e, false
	}
	sum, err := e.Sum()
	return e, err == nil && sum == e.Hash
}

// link is what the entry after a record carries of it: its hash, or that of its bytes when it is no entry. A chain with such a
// record in it shows it, and goes on.
func link(rec bus.Record) string {
	if e, ok := genuine(rec); ok {
		return e.Hash
	}
	sum := sha256.Sum256(rec.Data)
	return hex.EncodeToString(sum[:])
}

func appendOnce(ctx context.Context, conn *bus.Conn, subject string, e Entry) error {
	var last uint64
	rec, err := conn.Last(ctx, api.StreamAudit, Filter(e.Site))
	switch {
	case err == nil:
		if e.stored(rec) {
			return nil // by an attempt whose answer was lost
		}
		last, e.Prev = rec.Seq, link(rec)
	case !errors.Is(err, domain.ErrNotFound):
		return fmt.Errorf("append to audit: %w", err)
	}
	if e.Hash, err = e.Sum(); err != nil {
		return err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("append to audit: %w", err)
	}
	_, err = conn.AppendAfter(ctx, subject, data, "", Filter(e.Site), last)
	return err
}
