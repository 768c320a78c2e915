package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

const (
	durableCost  = 10
	ballotBytes  = 16 << 10 // of one ballot, and so about of a record
	atOnce       = 64       // ballots of one request
	refusedPause = 250 * time.Millisecond
	tellEvery    = 100 // refusals of a cluster between two lines of the log
)

type callerKey struct{}

// caller is who is at the other end of a connection, known from its first request on.
type caller struct {
	conn net.Conn
	m    *member
	site domain.SiteID
	err  error
	once sync.Once
}

// know finds out who it is, once, and takes a place of its cluster's until the connection ends.
func (c *caller) know(s *server, r *http.Request) error {
	c.once.Do(func() {
		if c.m, c.site, c.err = s.whose(*r.TLS); c.err != nil {
			return
		}
		if over := c.m.enter(); over != "" {
			c.err = c.m.overQuota(over)
			return
		}
		proven(c.conn, c.m.leave)
	})
	if c.err == nil && time.Now().After(r.TLS.PeerCertificates[0].NotAfter) { //nolint:forbidigo // of a certificate, which has dates
		return fmt.Errorf("witness: the certificate of site %s of cluster %s has expired: %w", c.site, c.m.name, domain.ErrRefused)
	}
	return c.err
}

// ServeHTTP answers a request of ballots.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(callerKey{}).(*caller)
	if err := c.know(s, r); err != nil {
		w.Header().Set("Connection", "close")
		s.refuse(w, r, c.m, http.StatusForbidden, err)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != votesPath {
		s.refuse(w, r, c.m, http.StatusNotFound, fmt.Errorf("witness: %s %.64q: only POST %s is answered: %w", r.Method, r.URL.Path, votesPath, domain.ErrInvalid))
		return
	}
	ballots, err := s.receive(r, c)
	if err != nil {
		s.refuse(w, r, c.m, http.StatusTooManyRequests, err)
		return
	}
	s.answer(w, http.StatusOK, reply{Voter: Voter, Answers: s.handle(c, ballots)})
}

// receive reads a request as far as the quota goes.
func (s *server) receive(r *http.Request, c *caller) ([]Ballot, error) {
	if r.ContentLength < 0 || r.ContentLength > maxBytes {
		return nil, fmt.Errorf("witness: a request of %d bytes: want 0 to %d, said beforehand: %w", r.ContentLength, maxBytes, domain.ErrInvalid)
	}
	if now := time.Now(); !c.m.bytes.AllowN(now, int(r.ContentLength)) { //nolint:forbidigo // a rate is no lease
		return nil, c.m.overQuota(fmt.Sprintf("%d bytes a second", c.m.quota.Bytes))
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBytes))
	if err != nil {
		return nil, fmt.Errorf("witness: read ballots: %w: %w", domain.ErrInvalid, err)
	}
	var in struct {
		Ballots []json.RawMessage `json:"ballots"`
	}
	if err := json.Unmarshal(raw, &in); err != nil || len(in.Ballots) == 0 || len(in.Ballots) > maxBallots {
		return nil, fmt.Errorf("witness: %d ballots: want 1 to %d: %w: %w", len(in.Ballots), maxBallots, domain.ErrInvalid, errors.Join(err))
	}
	out, cost := make([]Ballot, len(in.Ballots)), 0
	for i, b := range in.Ballots {
		if len(b) > ballotBytes {
			return nil, fmt.Errorf("witness: a ballot of %d bytes: at most %d: %w", len(b), ballotBytes, domain.ErrInvalid)
		}
		if err := json.Unmarshal(b, &out[i]); err != nil {
			return nil, fmt.Errorf("witness: decode ballot: %w: %w", domain.ErrInvalid, err)
		}
		cost += costOf(out[i].Verb)
	}
	if now := time.Now(); !c.m.votes.AllowN(now, cost) { //nolint:forbidigo // a rate is no lease
		return nil, c.m.overQuota(fmt.Sprintf("%d votes a second", c.m.quota.Votes))
	}
	return out, nil
}

func costOf(v core.Verb) int {
	if v.Durable() {
		return durableCost
	}
	return 1
}

// handle answers ballots at the same time, so that what they sync is made durable together.
func (s *server) handle(c *caller, ballots []Ballot) []answer {
	out := make([]answer, len(ballots))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, b := range ballots {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			resp, err := s.vote(c, b)
			if err != nil {
				out[i] = answer{Error: err.Error(), Code: domain.Code(err)}
				return
			}
			out[i] = answer{Response: &resp}
		})
	}
	wg.Wait()
	return out
}

func (s *server) vote(c *caller, b Ballot) (core.Response, error) {
	switch {
	case b.Cluster != c.m.name:
		return core.Response{}, fmt.Errorf("witness: ballot of cluster %q on the certificate of cluster %s: %w", b.Cluster, c.m.name, domain.ErrRefused)
	case b.From != c.site:
		return core.Response{}, fmt.Errorf("witness: ballot of site %q on the certificate of site %s of cluster %s: %w", b.From, c.site, c.m.name, domain.ErrRefused)
	case !domain.ValidToken(string(b.Group)):
		return core.Response{}, fmt.Errorf("witness: ballot for group %q: not a name: %w", b.Group, domain.ErrInvalid)
	case b.G < 0 || b.G > maxGrant:
		return core.Response{}, fmt.Errorf("witness: a grant of %s: at most %s: %w", b.G, time.Duration(maxGrant), domain.ErrInvalid)
	case !c.m.admits(b.Group):
		return core.Response{}, c.m.overQuota(fmt.Sprintf("%d groups", c.m.quota.Groups))
	}
	return s.voter.Handle(c.m.name, b.Group, b.Request)
}

// refuse answers after a pause, in which the connection brings nothing more: asking faster is no use.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, m *member, code int, err error) {
	if m != nil {
		m.mu.Lock()
		tell := m.refused%tellEvery == 0
		m.refused++
		m.mu.Unlock()
		if tell {
			s.log.Warn("request refused", "cluster", m.name, "address", r.RemoteAddr, "error", err, "more_are_told_each", tellEvery)
		}
	}
	pause(r.Context(), refusedPause)
	s.answer(w, code, reply{Voter: Voter, Error: err.Error(), Code: domain.Code(err)})
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *server) answer(w http.ResponseWriter, code int, r reply) {
	raw, err := json.Marshal(r)
	if err != nil {
		http.Error(w, "witness: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(raw) // a client that is gone needs no answer
}
