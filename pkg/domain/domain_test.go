package domain_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestEpochsOrderByForceThenCounterThenSiteAndFitAJSONNumber(t *testing.T) {
	ordered := []domain.Epoch{0, domain.NewEpoch(0, 1, 1), domain.NewEpoch(0, 1, 255), domain.NewEpoch(0, 2, 1), domain.NewEpoch(1, 0, 1), domain.NewEpoch(1, 3, 2)}
	for i, e := range ordered {
		if i > 0 && e <= ordered[i-1] {
			t.Errorf("%s is not above %s", e, ordered[i-1])
		}
		if back, err := domain.ParseEpoch(e.String()); err != nil || back != e {
			t.Errorf("%s reads back as %s, %v", e, back, err)
		}
	}
	if e := domain.NewEpoch(255, 1<<36-1, 255); int64(e) >= 1<<53 {
		t.Errorf("%d does not fit a JSON number exactly", e)
	}
	e := domain.NewEpoch(3, 77, 2)
	if e.Force() != 3 || e.Counter() != 77 || e.Site() != 2 || e.Next(9) <= e || e.Next(9).Force() != 3 || e.NextForced(1) <= e.Next(255) {
		t.Errorf("parts of %s: %d %d %d", e, e.Force(), e.Counter(), e.Site())
	}
	for _, bad := range []string{"", "x", "1.2", "1.2.x", "-4", "1.-2.3"} {
		if _, err := domain.ParseEpoch(bad); err == nil {
			t.Errorf("%q was read as an epoch", bad)
		}
	}
}

func TestModeBetweenTwoSites(t *testing.T) {
	g := domain.Group{Home: "a", Targets: []domain.Target{{Site: "b", Mode: domain.ModeSync}, {Site: "c", Mode: domain.ModeAsync}, {Site: "d", Mode: domain.ModeNone}}}
	for _, c := range []struct {
		from, to domain.SiteID
		want     domain.Mode
	}{
		{"a", "b", domain.ModeSync}, {"b", "a", domain.ModeSync}, {"a", "c", domain.ModeAsync}, {"c", "a", domain.ModeAsync},
		{"b", "c", domain.ModeAsync}, {"b", "d", domain.ModeNone}, {"a", "a", domain.ModeNone}, {"a", "z", domain.ModeNone}, {"z", "a", domain.ModeNone},
	} {
		if got := g.ModeTo(c.from, c.to); got != c.want {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}

func TestWireCodeOfAnErrorIsTheOneThatForbidsMost(t *testing.T) {
	err := fmt.Errorf("%w: %w", domain.ErrUnavailable, domain.ErrStaleEpoch)
	if got := domain.Code(err); got != "stale_epoch" {
		t.Errorf("got %s", got)
	}
	for _, s := range []error{domain.ErrStaleEpoch, domain.ErrNoLease, domain.ErrRefused, domain.ErrConflict, domain.ErrInvalid, domain.ErrNoQuorum, domain.ErrNotFound, domain.ErrUnavailable} {
		if !errors.Is(domain.FromCode(domain.Code(s)), s) {
			t.Errorf("%v does not survive the wire", s)
		}
	}
	if domain.Code(errors.New("x")) != "internal" || domain.FromCode("internal") != nil {
		t.Error("an unknown error must be internal")
	}
}
