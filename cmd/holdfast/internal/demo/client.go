package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ack is one append that a client was told is done.
type ack struct {
	Seq      uint64        `json:"seq"`
	Site     domain.SiteID `json:"site"`
	Instance string        `json:"instance"`
	Epoch    domain.Epoch  `json:"epoch"`
	ClockNS  int64         `json:"clock_ns"`
	at       time.Time
}

// client is a user of one service, outside of every site: it resolves the name at the zone's authorities, keeps the answer
// for its TTL, appends to the workload's log as fast as one user does, and remembers each acknowledgement.
type client struct {
	name        string
	authorities []string // none: it asks at addr only
	port        int      // at which the service answers
	http        *http.Client
	rng         *rand.Rand
	pause       time.Duration

	addr    string
	expires time.Time

	mu      sync.Mutex
	acks    []ack
	changed chan struct{} // closed and replaced at each ack
}

const (
	clientTimeout = time.Second
	clientPause   = 10 * time.Millisecond
	dnsTimeout    = 300 * time.Millisecond
)

func newClient(name string, port int, authorities []string, seed uint64) *client {
	return &client{name: name, port: port, authorities: authorities, changed: make(chan struct{}), pause: clientPause,
		rng:  rand.New(rand.NewPCG(seed, uint64(len(name)))),
		http: &http.Client{Timeout: clientTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 2 * time.Second}}}
}

// run appends until stop is closed, and then lets the append that is under way come to its end, so that nothing is still
// being written when the disks are read.
func (c *client) run(ctx context.Context, stop <-chan struct{}) {
	defer c.http.CloseIdleConnections()
	t := time.NewTicker(c.pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-stop:
			return
		}
		a, err := c.append(ctx)
		if err != nil {
			c.expires = time.Time{} // ask again where the name points
			continue
		}
		c.mu.Lock()
		c.acks = append(c.acks, a)
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

func (c *client) append(ctx context.Context) (ack, error) {
	addr, err := c.resolve(ctx)
	if err != nil {
		return ack{}, err
	}
	payload := strings.Repeat("holdfast ", 1+c.rng.IntN(12))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:%d/append", addr, c.port), strings.NewReader(payload))
	if err != nil {
		return ack{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return ack{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return ack{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return ack{}, fmt.Errorf("append at %s: %s: %s", addr, resp.Status, body)
	}
	var a ack
	if err := json.Unmarshal(body, &a); err != nil {
		return ack{}, fmt.Errorf("append at %s: %w", addr, err)
	}
	a.at = time.Now()
	return a, nil
}

func (c *client) resolve(ctx context.Context) (string, error) {
	if len(c.authorities) == 0 || time.Now().Before(c.expires) {
		return c.addr, nil
	}
	addr, ttl, err := resolveAt(ctx, c.authorities, c.name)
	if err != nil {
		return "", err
	}
	if addr != c.addr {
		c.http.CloseIdleConnections()
	}
	c.addr, c.expires = addr, time.Now().Add(ttl)
	return addr, nil
}

// resolveAt asks the authorities in turn, as a resolver does, for the first address of a name.
func resolveAt(ctx context.Context, authorities []string, name string) (string, time.Duration, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	cl := &dns.Client{Timeout: dnsTimeout}
	var last error
	for _, server := range authorities {
		reply, _, err := cl.ExchangeContext(ctx, q, server)
		if err != nil {
			last = err
			continue
		}
		for _, rr := range reply.Answer {
			if a, ok := rr.(*dns.A); ok {
				return a.A.String(), time.Duration(a.Hdr.Ttl) * time.Second, nil
			}
		}
		last = fmt.Errorf("%s answers %s", server, dns.RcodeToString[reply.Rcode])
	}
	return "", 0, fmt.Errorf("resolve %s: %w", name, last)
}

// all is what was acknowledged so far.
func (c *client) all() []ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]ack(nil), c.acks...)
}

// await returns the first ack for which ok holds, waiting for it if need be.
func (c *client) await(ctx context.Context, ok func(ack) bool) (ack, error) {
	seen := 0
	for {
		c.mu.Lock()
		acks, changed := c.acks, c.changed
		c.mu.Unlock()
		for ; seen < len(acks); seen++ {
			if ok(acks[seen]) {
				return acks[seen], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ack{}, fmt.Errorf("wait for %s to answer: %w", c.name, context.Cause(ctx))
		}
	}
}
