package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// At says where a witness is, as a cluster is told.
type At struct {
	URL string // https://host:port
	CA  string // PEM file of the witness' certificate, or of who signed it
}

// Client asks a witness for its vote. Its methods may be called from any goroutine.
type Client struct {
	ctx     context.Context //nolint:containedctx // of the service: requests end with it
	url     string
	http    *http.Client
	timeout time.Duration
	now     lane // what may not wait
	renewal lane
}

const (
	connections = 6 // at most, each with one request under way
	laneSlots   = 3
)

// NewClient makes a client that shows the certificate that show gives, each time it connects. A request ends after timeout; renewals wait
// window for others. Nothing is sent yet. Errors wrap domain.ErrInvalid and name what cannot be.
func NewClient(ctx context.Context, at At, show func() (tls.Certificate, error), timeout, window time.Duration) (*Client, error) {
	u, err := url.Parse(at.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("witness %q: want https://host:port: %w", at.URL, domain.ErrInvalid)
	}
	if show == nil {
		return nil, fmt.Errorf("witness %s: this site has no certificate to show: make its folder with holdfast site init, and name it as security.secrets: %w", at.URL, domain.ErrInvalid)
	}
	raw, err := os.ReadFile(at.CA)
	if err != nil {
		return nil, fmt.Errorf("witness %s: read its certificate: %w: %w", at.URL, domain.ErrInvalid, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("witness %s: %s holds no certificate in PEM: %w", at.URL, at.CA, domain.ErrInvalid)
	}
	c := &Client{ctx: ctx, url: at.URL + votesPath, timeout: timeout, now: newLane(0), renewal: newLane(window)}
	c.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, NextProtos: []string{"http/1.1"},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				cert, err := show()
				return &cert, err
			}},
		TLSHandshakeTimeout: timeout, MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, IdleConnTimeout: idleTime / 2, DisableCompression: true,
	}}
	return c, nil
}

// Ask sends a ballot, once. Errors wrap domain.ErrUnavailable where no answer came: the vote may have been given. ErrRefused and
// ErrInvalid are the witness' word.
func (c *Client) Ask(ctx context.Context, b Ballot) (core.Response, error) {
	l := &c.now
	if b.Verb == core.Renew {
		l = &c.renewal
	}
	k := &call{ctx: ctx, ballot: b, done: make(chan struct{})}
	l.add(c.ctx, k, c.send)
	select {
	case <-k.done:
		return k.resp, k.err
	case <-ctx.Done():
		return core.Response{}, fmt.Errorf("ask witness %s: %w: %w", c.url, domain.ErrUnavailable, ctx.Err())
	}
}

// call is a ballot that waits for its answer.
type call struct {
	ctx    context.Context //nolint:containedctx // of who waits
	ballot Ballot
	done   chan struct{}
	resp   core.Response
	err    error
}

func (k *call) end(resp core.Response, err error) {
	k.resp, k.err = resp, err
	close(k.done)
}

// lane gathers ballots into requests: those that come within its window, and those that come while all of its requests are under way.
type lane struct {
	window time.Duration
	slots  chan struct{}

	mu      sync.Mutex
	waiting []*call
	armed   bool
}

func newLane(window time.Duration) lane {
	return lane{window: window, slots: make(chan struct{}, laneSlots)}
}

func (l *lane) add(ctx context.Context, k *call, send func([]*call)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, k)
	if !l.armed {
		l.armed = true
		go l.flush(ctx, send)
	}
}

// flush sends what has gathered, in as many requests as it takes.
func (l *lane) flush(ctx context.Context, send func([]*call)) {
	if l.window > 0 {
		pause(ctx, l.window)
	}
	for {
		l.slots <- struct{}{}
		l.mu.Lock()
		// A ballot whose time is over is not sent: a late renewal is worse than none.
		l.waiting = slices.DeleteFunc(l.waiting, func(k *call) bool { return k.ctx.Err() != nil })
		n := min(len(l.waiting), maxBallots)
		batch := slices.Clone(l.waiting[:n])
		l.waiting = slices.Delete(l.waiting, 0, n)
		l.armed = len(l.waiting) > 0
		more := l.armed
		l.mu.Unlock()
		go func() {
			defer func() { <-l.slots }()
			if len(batch) > 0 {
				send(batch)
			}
		}()
		if !more {
			return
		}
	}
}

func (c *Client) send(batch []*call) {
	r, err := c.post(batch)
	for i, k := range batch {
		switch {
		case err != nil:
			k.end(core.Response{}, fmt.Errorf("ask witness %s: %w", c.url, err))
		case r.Answers[i].Response == nil:
			k.end(core.Response{}, fmt.Errorf("ask witness %s: %w", c.url, failure(r.Answers[i].Error, r.Answers[i].Code)))
		default:
			k.end(*r.Answers[i].Response, nil)
		}
	}
}

func (c *Client) post(batch []*call) (reply, error) {
	in := request{Ballots: make([]Ballot, len(batch))}
	for i, k := range batch {
		in.Ballots[i] = k.ballot
	}
	raw, err := json.Marshal(in)
	if err != nil {
		return reply{}, fmt.Errorf("encode ballots: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(raw))
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", domain.ErrInvalid, err)
	}
	req.GetBody = nil // never sent twice
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
	}
	defer func() { _ = resp.Body.Close() }()
	var r reply
	if err := json.NewDecoder(io.LimitReader(resp.Body, 32*maxBytes)).Decode(&r); err != nil {
		return reply{}, fmt.Errorf("%w: status %s: %w", domain.ErrUnavailable, resp.Status, err)
	}
	switch {
	case r.Error != "":
		return reply{}, failure(r.Error, r.Code)
	case resp.StatusCode != http.StatusOK || len(r.Answers) != len(batch):
		return reply{}, fmt.Errorf("%w: status %s with %d answers to %d ballots", domain.ErrUnavailable, resp.Status, len(r.Answers), len(batch))
	}
	return r, nil
}
