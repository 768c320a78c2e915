package rfc2136

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const (
	defaultTimeout = 5 * time.Second
	attempts       = 3 // of read, decide, update, when another mover gets in between
	rereadEvery    = 50 * time.Millisecond
	tsigFudge      = 300 // seconds, RFC 8945 section 10
)

// Config is one zone at one server.
type Config struct {
	Server   string // host:port of the zone's primary
	Zone     string
	Key      Key
	EpochTXT bool          // keep the epoch in a TXT record beside the name
	Timeout  time.Duration // for a whole change, the read-back included; 0: 5 s
	// Now is the wall clock that updates are signed by; nil: the machine's.
	Now func() time.Time
}

// Client changes records of one zone. Its methods may be called from any goroutine.
type Client struct {
	cfg Config
}

// New checks cfg; it does not talk to the server. The error names the field and wraps domain.ErrInvalid.
func New(cfg Config) (*Client, error) {
	var err error
	if cfg.Zone, err = zone.CanonicalName(cfg.Zone); err != nil {
		return nil, fmt.Errorf("dns server %s: zone: %w", cfg.Server, err)
	}
	if _, _, err := net.SplitHostPort(cfg.Server); err != nil {
		return nil, fmt.Errorf("dns server %q: %w: want host:port", cfg.Server, domain.ErrInvalid)
	}
	if cfg.Key, err = cfg.Key.canonical(); err != nil {
		return nil, fmt.Errorf("dns server %s: %w", cfg.Server, err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{cfg: cfg}, nil
}

// Zone is the zone's name, canonical.
func (c *Client) Zone() string { return c.cfg.Zone }

// Addr is the server's host:port.
func (c *Client) Addr() string { return c.cfg.Server }

// Change does ch, or finds it done before, and returns when the server answers the new value. Errors wrap
// domain.ErrInvalid, ErrRefused, ErrStaleEpoch (with EpochTXT), ErrConflict, or ErrUnavailable: then the effect is unknown
// and the same change may be sent again.
func (c *Client) Change(ctx context.Context, ch zone.Change) (zone.Outcome, error) {
	ch, err := ch.Canonical()
	if err != nil {
		return zone.Outcome{}, err
	}
	if !dns.IsSubDomain(c.cfg.Zone, ch.Name) || ch.Name == c.cfg.Zone {
		return zone.Outcome{}, fmt.Errorf("change %s: not a name below zone %s: %w", ch.Name, c.cfg.Zone, domain.ErrRefused)
	}
	if len(epochName(ch.Name)) > 254 {
		return zone.Outcome{}, fmt.Errorf("change %s: no room for its epoch record: %w", ch.Name, domain.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	out, err := c.change(ctx, ch)
	if err != nil {
		return zone.Outcome{}, fmt.Errorf("change %s %s to %s at %s: %w", ch.Type, ch.Name, zone.Show(ch.New), c.cfg.Server, err)
	}
	return out, nil
}

func (c *Client) change(ctx context.Context, ch zone.Change) (zone.Outcome, error) {
	for range attempts {
		found, err := c.read(ctx, ch.Name, ch.Type)
		if err != nil {
			return zone.Outcome{}, err
		}
		todo, err := decide(ch, found)
		if err != nil {
			return zone.Outcome{}, err
		}
		if todo {
			raced, err := c.update(ctx, ch, found)
			if err != nil {
				return zone.Outcome{}, err
			}
			if raced {
				continue
			}
		}
		return c.readBack(ctx, ch, found, todo)
	}
	return zone.Outcome{}, fmt.Errorf("other movers changed the record %d times in between: %w", attempts, domain.ErrConflict)
}

// Lookup is the record as the server answers it; domain.ErrNotFound when there is none. Group and Epoch are known with EpochTXT only.
func (c *Client) Lookup(ctx context.Context, name string, t zone.Type) (zone.Record, error) {
	n, err := zone.CanonicalName(name)
	if err != nil {
		return zone.Record{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	found, err := c.read(ctx, n, t)
	switch {
	case err != nil:
		return zone.Record{}, fmt.Errorf("look up %s %s at %s: %w", t, n, c.cfg.Server, err)
	case len(found.values) == 0:
		return zone.Record{}, fmt.Errorf("look up %s %s at %s: %w", t, n, c.cfg.Server, domain.ErrNotFound)
	case len(found.values) > 1:
		return zone.Record{}, fmt.Errorf("look up %s %s at %s: %w: it holds %s, one address is wanted", t, n, c.cfg.Server, domain.ErrConflict, found)
	}
	return zone.Record{Name: n, Type: t, Value: found.values[0], TTL: found.ttl, Group: found.group, Epoch: found.epoch}, nil
}

// readBack waits until the server answers what was changed. A server that takes updates for another, or answers from a
// copy, does so a little later.
func (c *Client) readBack(ctx context.Context, ch zone.Change, before standing, changed bool) (zone.Outcome, error) {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	last := errors.New("it has not answered")
	for {
		found, err := c.read(ctx, ch.Name, ch.Type)
		if err == nil && found.holds(ch.New) && (!c.cfg.EpochTXT || found.epoch >= ch.Epoch) {
			out := zone.Outcome{Changed: changed, Before: before.String(), Record: zone.Record{Name: ch.Name, Type: ch.Type, Value: ch.New,
				TTL: found.ttl, Group: ch.Group, Epoch: ch.Epoch}}
			if before.holds(ch.New) {
				out.Before = ch.Old // done before: what took its place then
			}
			return out, nil
		}
		if err == nil {
			last = fmt.Errorf("it still answers %s", zone.Show(found.String()))
		} else if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
			last = err // a question cut off by the deadline tells nothing
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return zone.Outcome{}, fmt.Errorf("the update was taken but not seen by reading back: %s: %w", last.Error(), domain.ErrUnavailable)
		}
	}
}

// read asks the server for the record, and for its epoch.
func (c *Client) read(ctx context.Context, name string, t zone.Type) (standing, error) {
	answer, err := c.query(ctx, name, dns.StringToType[string(t)])
	if err != nil {
		return standing{}, err
	}
	var s standing
	for _, rr := range answer {
		switch rr := rr.(type) {
		case *dns.CNAME:
			return standing{}, fmt.Errorf("it is an alias of %s: %w", rr.Target, domain.ErrConflict)
		case *dns.A:
			s.values, s.ttl = append(s.values, rr.A.String()), rr.Hdr.Ttl
		case *dns.AAAA:
			s.values, s.ttl = append(s.values, rr.AAAA.String()), rr.Hdr.Ttl
		}
	}
	slices.Sort(s.values)
	if !c.cfg.EpochTXT {
		return s, nil
	}
	if answer, err = c.query(ctx, epochName(name), dns.TypeTXT); err != nil {
		return standing{}, err
	}
	s.epochKept = true
	return s, s.setEpoch(answer)
}

func (c *Client) query(ctx context.Context, name string, qtype uint16) ([]dns.RR, error) {
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.RecursionDesired = false
	r, err := c.exchange(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("query: %w", unavailable(err))
	}
	switch {
	case r.Rcode == dns.RcodeServerFailure:
		return nil, fmt.Errorf("query: the server answers SERVFAIL, see its log: %w", domain.ErrUnavailable)
	case r.Rcode != dns.RcodeSuccess && r.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("query: the server answers %s: %w: let this host ask for zone %s (BIND: allow-query), or name the zone's server",
			dns.RcodeToString[r.Rcode], domain.ErrRefused, c.cfg.Zone)
	case !r.Authoritative:
		return nil, fmt.Errorf("query: the server is no authority for zone %s: %w: name the zone's primary", c.cfg.Zone, domain.ErrRefused)
	}
	return r.Answer, nil
}

// exchange sends m over TCP, which neither truncates nor takes a reply from anyone else. It ends with ctx.
func (c *Client) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", c.cfg.Server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = raw.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: raw, TsigSecret: map[string]string{c.cfg.Key.Name: c.cfg.Key.Secret}}
	if err := conn.WriteMsg(m); err != nil {
		return nil, err
	}
	r, err := conn.ReadMsg()
	if r != nil && r.Id != m.Id {
		return nil, dns.ErrId
	}
	return r, err
}

func unavailable(err error) error {
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("no reply in time (%w): %w", err, domain.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", err, domain.ErrUnavailable)
}

// epochName is where the epoch of name is kept.
func epochName(name string) string { return "_hf-epoch." + name }

// standing is what the server holds for one name and type.
type standing struct {
	values    []string // canonical, sorted
	ttl       uint32
	epochKept bool     // the server is asked for an epoch record
	epochText []string // its strings, nil: none
	group     domain.GroupID
	epoch     domain.Epoch
}

// String is the values, empty for none.
func (s standing) String() string { return strings.Join(s.values, " and ") }

// holds reports whether exactly value stands; empty: nothing.
func (s standing) holds(value string) bool {
	if value == "" {
		return len(s.values) == 0
	}
	return len(s.values) == 1 && s.values[0] == value
}
