package quorum

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// peer is a voter as this site reaches it. Requests beyond inFlight are dropped: a late renewal is worse than none.
type peer struct {
	voter   Voter
	conn    *bus.Conn       // nil for the own voter, a passive one and a witness service
	witness *witness.Client // of a witness service
	breaker *gobreaker.CircuitBreaker[core.Response]
	slots   chan struct{}
	trouble atomic.Pointer[string] // why the last request failed, nil when it did not
	heard   atomic.Int64           // when it last answered, by the service's clock; 0: never
	trips   roundTrips
	conform atomic.Pointer[string] // of a passive voter: what its probe found, nil before
	probing atomic.Bool
}

const (
	inFlight = 32
	gathered = 1024
)

// connectPeers makes a peer of every voter.
func (s *service) connectPeers() error {
	s.peers = make(map[core.VoterID]*peer, len(s.cfg.Voters))
	for _, v := range s.cfg.Voters {
		p := &peer{voter: v, slots: make(chan struct{}, inFlight), witness: s.witnesses[v.ID]}
		if v.serves() {
			p.slots = make(chan struct{}, gathered) // many travel in one request
		}
		p.breaker = gobreaker.NewCircuitBreaker[core.Response](gobreaker.Settings{
			Name: string(v.ID),
			// The breaker rests shorter than a renewal interval, so that it never costs a lease by itself.
			Timeout:      s.cfg.Timing.Retry,
			ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
			IsSuccessful: func(err error) bool { return !errors.Is(err, domain.ErrUnavailable) },
		})
		if !v.Kind.Passive() && !v.serves() && v.Site != s.cfg.Site {
			conn, err := s.mesh.Conn(v.Site)
			if err != nil {
				return fmt.Errorf("voter %s: %w", v.ID, err)
			}
			p.conn = conn
		}
		s.peers[v.ID] = p
	}
	return nil
}

// ask sends one request to a voter in the background and hands the answer, if one comes, to done. ended is told in any case.
func (s *service) ask(ctx context.Context, p *peer, b ballot, done func(core.Response), ended func(core.Response, error)) {
	select {
	case p.slots <- struct{}{}:
	default:
		ended(core.Response{}, fmt.Errorf("ask voter %s: %w: %d requests wait for it", p.voter.ID, domain.ErrUnavailable, cap(p.slots)))
		return
	}
	s.wg.Go(func() {
		defer func() { <-p.slots }()
		sent := s.now()
		resp, err := s.vote(ctx, p, b)
		if p.note(err, s.instant()) {
			s.replan() // what waited for this voter need not wait on
		}
		if err == nil && (p.conn != nil || p.witness != nil && b.Verb == core.Probe) && !b.Verb.Durable() {
			p.trips.note(time.Duration(s.now() - sent))
		}
		ended(resp, err)
		if err != nil {
			s.log.Debug("voter did not answer", "voter", string(p.voter.ID), "verb", string(b.Verb), "group", string(b.Group), "error", err)
			return
		}
		done(resp)
	})
}

func (s *service) vote(ctx context.Context, p *peer, b ballot) (core.Response, error) {
	if p.conn == nil && p.witness == nil {
		return s.ownVote(b)
	}
	// An answer counts for its own round, even after the next has begun.
	ctx, cancel := context.WithTimeout(ctx, max(s.cfg.Timing.Renew, 2*s.cfg.Timing.Round))
	defer cancel()
	return p.breaker.Execute(func() (core.Response, error) {
		if p.witness != nil {
			resp, err := p.witness.Ask(ctx, witness.Ballot(b))
			if err != nil {
				return core.Response{}, err
			}
			return p.checked(resp, b.Request)
		}
		data, err := json.Marshal(b)
		if err != nil {
			return core.Response{}, fmt.Errorf("encode ballot: %w", err)
		}
		raw, err := p.conn.Request(ctx, api.VoteSubject(string(p.voter.ID), string(b.Verb)), data)
		if err != nil {
			return core.Response{}, err
		}
		var resp core.Response
		if err := json.Unmarshal(raw, &resp); err != nil {
			return core.Response{}, fmt.Errorf("decode answer of voter %s: %w", p.voter.ID, err)
		}
		return p.checked(resp, b.Request)
	})
}

// checked refuses what is no answer of the voter to the request: the core counts an answer for who and for what it says it is.
func (p *peer) checked(resp core.Response, req core.Request) (core.Response, error) {
	switch {
	case resp.Voter != p.voter.ID:
		return core.Response{}, fmt.Errorf("answer of voter %s names %s: %w", p.voter.ID, resp.Voter, domain.ErrInvalid)
	case resp.Nonce != req.Nonce || resp.Verb != req.Verb:
		return core.Response{}, fmt.Errorf("answer of voter %s to %s %d is to %s %d: %w", p.voter.ID, req.Verb, req.Nonce, resp.Verb, resp.Nonce, domain.ErrInvalid)
	}
	return resp, nil
}

// note keeps how a request went at a time, and reports whether the voter answers after it had not.
func (p *peer) note(err error, at core.Instant) bool {
	if err == nil {
		first := p.heard.Swap(int64(at)) == 0
		return p.trouble.Swap(nil) != nil || first
	}
	text := err.Error()
	p.trouble.Store(&text)
	return false
}

// openWitnesses makes this site's clients of the witness services. Nothing is connected yet. An error is a configuration that cannot be.
func (s *service) openWitnesses(show func() (tls.Certificate, error)) error {
	s.witnesses = map[core.VoterID]*witness.Client{}
	for _, v := range s.cfg.Voters {
		if !v.serves() {
			continue
		}
		t := s.cfg.Timing
		c, err := witness.NewClient(s.ctx, v.Witness, show, max(t.Renew, 2*t.Round), t.Round/10)
		if err != nil {
			return err
		}
		s.witnesses[v.ID] = c
	}
	return nil
}

// status is the voter as this site sees it.
func (p *peer) status(weight int) api.VoterStatus {
	st := api.VoterStatus{ID: string(p.voter.ID), Site: p.voter.Site, Kind: string(p.voter.Kind), Weight: weight,
		Reachable: p.conn == nil || p.conn.Connected()}
	if t := p.trouble.Load(); t != nil {
		st.Reachable, st.Detail = false, *t
	}
	rtt, n := p.trips.p99()
	st.RTTP99Ns, st.RTTSamples = int64(rtt), n
	if c := p.conform.Load(); c != nil {
		st.Conformance = *c
	}
	return st
}
