package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const (
	readBackTimeout = 250 * time.Millisecond // of one question: a UDP packet may be lost
	readBackEvery   = 20 * time.Millisecond
)

// ownAuthority changes this site's copy of the delegated zone and reads the change back from its own server.
type ownAuthority struct {
	zone   *copyOfZone
	leases *leases
	addr   string
	wait   time.Duration
}

// Zone implements backend.
func (o *ownAuthority) Zone() string { return o.zone.zone().Origin() }

// Addr implements backend.
func (o *ownAuthority) Addr() string { return o.addr }

// Lookup implements backend.
func (o *ownAuthority) Lookup(_ context.Context, name string, t zone.Type) (zone.Record, error) {
	n, err := zone.CanonicalName(name)
	if err != nil {
		return zone.Record{}, err
	}
	r, ok := o.zone.zone().Lookup(n, t)
	if !ok {
		return zone.Record{}, fmt.Errorf("look up %s %s: %w", t, n, domain.ErrNotFound)
	}
	return r, nil
}

// Change implements backend. When the change was applied but not seen by reading back, the outcome comes with the error.
func (o *ownAuthority) Change(ctx context.Context, ch zone.Change) (zone.Outcome, error) {
	out, err := o.zone.apply(ch)
	if err != nil {
		return zone.Outcome{}, err
	}
	if o.leases.pointsHere(out.Record) {
		o.leases.refresh(ctx, ch.Group) // a lease just won may not have been asked for yet
	}
	if err := o.readBack(ctx, out.Record); err != nil {
		return out, fmt.Errorf("change %s %s to %s: applied, but not seen by reading back from %s within %s: %s: %w", ch.Type, ch.Name,
			zone.Show(ch.New), o.addr, o.wait, err.Error(), domain.ErrUnavailable)
	}
	return out, nil
}

// readBack asks the server, as a resolver would, until it answers r.
func (o *ownAuthority) readBack(ctx context.Context, r zone.Record) error {
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	tick := time.NewTicker(readBackEvery)
	defer tick.Stop()
	last := errors.New("no answer")
	for {
		got, err := ask(ctx, o.addr, r.Name, r.Type)
		if err == nil && got == r.Value {
			return nil
		}
		if err == nil {
			last = fmt.Errorf("it answers %s", zone.Show(got))
		} else if ne := net.Error(nil); !errors.As(err, &ne) || !ne.Timeout() {
			last = err // a lost packet, or a question cut off by the deadline, tells nothing
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last
		}
	}
}

// ask is one question over UDP, without recursion. No such name, or no such record, is an empty value.
func ask(ctx context.Context, addr, name string, t zone.Type) (string, error) {
	m := new(mdns.Msg).SetQuestion(name, mdns.StringToType[string(t)])
	m.RecursionDesired = false
	c := mdns.Client{Net: "udp", Timeout: readBackTimeout}
	r, _, err := c.ExchangeContext(ctx, m, addr)
	switch {
	case err != nil:
		return "", err
	case r.Rcode == mdns.RcodeServerFailure:
		return "", errors.New("it answers SERVFAIL: the name points at this site, which holds no lease for its group")
	case r.Rcode != mdns.RcodeSuccess && r.Rcode != mdns.RcodeNameError || !r.Authoritative:
		return "", fmt.Errorf("it answers %s, authoritative %v", mdns.RcodeToString[r.Rcode], r.Authoritative)
	}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			return rr.A.String(), nil
		case *mdns.AAAA:
			return rr.AAAA.String(), nil
		}
	}
	return "", nil
}

// reachable is a listening address as this host can ask it: a wildcard becomes loopback.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return addr
	} else if ip.To4() != nil {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return net.JoinHostPort("::1", port)
}
