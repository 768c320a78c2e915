package quorum

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// meters are what the service counts as it happens; the rest is read from its status when asked for.
type meters struct {
	leases, votes *telemetry.CounterVec
}

func newMeters(m *telemetry.Metrics) meters {
	return meters{leases: m.Counter(telemetry.LeaseChanges), votes: m.Counter(telemetry.Votes)}
}

// lease counts a change of the own lease, by the name of its fact.
func (m meters) lease(g domain.GroupID, fact string) {
	changes := map[string]string{"epoch_granted": "granted", "lease_lost": "lost", "lease_released": "released"}
	for _, change := range changes {
		m.leases.WithLabelValues(string(g), change) // from 0, so that the first loss is an increase
	}
	m.leases.WithLabelValues(string(g), changes[fact]).Inc()
}

// vote counts an answer of the own voter.
func (m meters) vote(b ballot, v core.Verdict) {
	verdict := string(v)
	if v == core.OK {
		verdict = "granted"
	}
	m.votes.WithLabelValues(string(b.Group), string(b.Verb), verdict).Inc()
}

// ownVote asks the voter of this site.
func (s *service) ownVote(b ballot) (core.Response, error) {
	resp, err := s.voter.Handle(b.Cluster, b.Group, b.Request)
	if err == nil {
		s.meters.vote(b, resp.Verdict)
		s.heard(b, resp)
	}
	return resp, err
}

// tellMetrics lets the gauges be read from the service's status.
func (s *service) tellMetrics(m *telemetry.Metrics) {
	m.Collect([]string{telemetry.LeaseHeld, telemetry.LeaseRemaining, telemetry.LeaseEpoch, telemetry.VoterReachable, telemetry.QuorumReachable, telemetry.QuorumForced, telemetry.QuorumPrevented, telemetry.BreakerState},
		func(set telemetry.Set) {
			st, err := s.answerStatus(s.ctx, api.Empty{})
			if err != nil {
				return // the service is ending
			}
			for _, l := range st.Groups {
				g := string(l.Group)
				set(telemetry.LeaseHeld, telemetry.Bool(l.Held), g)
				set(telemetry.LeaseRemaining, time.Duration(l.RemainingNs).Seconds(), g)
				set(telemetry.LeaseEpoch, float64(l.Epoch), g)
				set(telemetry.QuorumForced, telemetry.Bool(l.Forced), g)
			}
			set(telemetry.QuorumPrevented, telemetry.Bool(st.Prevented))
			reached := map[core.VoterID]bool{}
			for _, v := range st.Voters {
				reached[core.VoterID(v.ID)] = v.Reachable
				set(telemetry.VoterReachable, telemetry.Bool(v.Reachable), v.ID)
			}
			have, total := s.initial.Weights.Count(func(id core.VoterID) bool { return reached[id] })
			set(telemetry.QuorumReachable, telemetry.Bool(2*have > total))
			for id, p := range s.peers {
				if p.conn != nil || p.witness != nil {
					set(telemetry.BreakerState, float64(p.breaker.State()), string(id))
				}
			}
		})
}
