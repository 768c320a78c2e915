package replicator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/probe"
	"github.com/holdfast-dr/holdfast/services/replicator/survey"
)

const (
	surveyTime = 10 * time.Second
	surveyMost = time.Minute // an answer may take two
)

// survey measures the link that replication to a site uses, and says what it would be to each group that was served here.
func (s *service) survey(ctx context.Context, r api.SurveyRequest) (reply api.SurveyReply, err error) {
	d := time.Duration(r.DurationNs)
	if d == 0 {
		d = surveyTime
	}
	switch {
	case d < time.Second || d > surveyMost:
		return reply, fmt.Errorf("survey the link to site %s for %s: %w: give a duration from 1s to %s", r.To, d, domain.ErrInvalid, surveyMost)
	case r.To == s.cfg.Site:
		return reply, fmt.Errorf("survey the link from site %s to itself: %w: name another site", r.To, domain.ErrInvalid)
	case r.RateLimit < 0 || r.BearableNs < 0:
		return reply, fmt.Errorf("survey the link to site %s: a negative limit: %w: leave it out, or give one above 0", r.To, domain.ErrInvalid)
	}
	conn, err := s.deps.Mesh.Conn(r.To)
	if err != nil {
		return reply, fmt.Errorf("survey the link to site %s: %w", r.To, err)
	}
	if !s.surveying.TryLock() {
		return reply, fmt.Errorf("survey the link to site %s: another survey measures from site %s: %w: two would measure one another, wait for its end", r.To, s.cfg.Site, domain.ErrConflict)
	}
	defer s.surveying.Unlock()
	subject := api.QuerySubject(r.To, api.ServiceReplicator, api.VerbProbe)
	path := func(ctx context.Context, request []byte) ([]byte, error) { return conn.Request(ctx, subject, request) }
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	s.log.Info("link survey begins", "target", string(r.To), "duration", d)
	link, err := probe.Measure(ctx, path, probe.Options{Duration: d, RateLimit: r.RateLimit, Busy: func() bool { return s.lags(r.To) }})
	if err != nil {
		return reply, fmt.Errorf("survey the link to site %s: %w", r.To, err)
	}
	link.DistanceKm = survey.DistanceKm(time.Duration(link.RoundTrip.Min * float64(time.Millisecond)))
	var needs []survey.Need
	for _, g := range s.all("") {
		if n := g.Need(r.To); len(n.Minute) > 0 || g.Status().Role == domain.RolePrimary {
			needs = append(needs, n)
		}
	}
	slices.SortFunc(needs, func(a, b survey.Need) int { return strings.Compare(string(a.Group), string(b.Group)) })
	return api.SurveyReply{From: s.cfg.Site, To: r.To, At: time.Now(), Link: link,
		Groups: survey.Advise(link, needs, survey.Policy{Bearable: time.Duration(r.BearableNs), Bound: s.cfg.Links[r.To]})}, nil
}

// bearableLag is how far a target may lag while a survey measures on.
const bearableLag = 250 * time.Millisecond

// lags reports whether replication to a site needs all of the link now.
func (s *service) lags(to domain.SiteID) bool {
	for _, g := range s.all("") {
		for _, t := range g.Status().Targets {
			if t.Site == to && (t.State == api.TargetResync || t.LagSeconds > bearableLag.Seconds()) {
				return true
			}
		}
	}
	return false
}

func answerProbe(_ context.Context, request []byte) ([]byte, error) { return probe.Answer(request) }
