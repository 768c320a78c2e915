package health

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/libvirturi"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// Kinds of probe. None needs ICMP or rights beyond a connection.
const (
	ProbeTCP   = "tcp"   // a connection
	ProbeHTTP  = "http"  // GET answered with 2xx
	ProbeISCSI = "iscsi" // login, INQUIRY and logout
	ProbeNATS  = "nats"  // a connection, and the server's greeting
	// ProbeLibvirt is an answer of the hypervisor and, where a domain is named, that it runs.
	ProbeLibvirt = "libvirt"
	// ProbeGuestAgent is the answer of the QEMU guest agent in a domain of libvirt's.
	ProbeGuestAgent = "guest-agent"
)

// Probe is how one object of this site is probed besides what is probed by itself.
type Probe struct {
	Kind   string // of the object: host, service, storage, port
	ID     string
	How    string // tcp, http, iscsi, nats, libvirt, guest-agent
	Target string // host:port, URL, iscsi://host/iqn/lun, or a libvirt URI with #DOMAIN
	// Every is the time between two probes, Timeout that of one; 0 is a beat, and two.
	Every, Timeout time.Duration
	CHAP           chap.Settings // of an iSCSI login
}

// Validate names what cannot be.
func (p Probe) Validate() error {
	switch {
	case p.Kind != assess.KindHost && p.Kind != assess.KindService && p.Kind != assess.KindStorage && p.Kind != assess.KindPort:
		return fmt.Errorf("health probe of %s/%s: must be of a host, service, storage or port: %w", p.Kind, p.ID, domain.ErrInvalid)
	case !domain.ValidToken(p.ID):
		return fmt.Errorf("health probe of %s/%q: must be a name: %w", p.Kind, p.ID, domain.ErrInvalid)
	case p.Every < 0 || p.Timeout < 0:
		return fmt.Errorf("health probe of %s/%s: every %v, timeout %v: must not be below zero: %w", p.Kind, p.ID, p.Every, p.Timeout, domain.ErrInvalid)
	}
	switch p.How {
	case ProbeTCP, ProbeNATS:
		return validAddress(cmp.Or(p.Target, "none"))
	case ProbeHTTP:
		if !strings.HasPrefix(p.Target, "http://") && !strings.HasPrefix(p.Target, "https://") {
			return fmt.Errorf("health probe of %s/%s: target %q: want http:// or https://: %w", p.Kind, p.ID, p.Target, domain.ErrInvalid)
		}
		return nil
	case ProbeISCSI:
		if _, err := initiator.ParseURL(p.Target); err != nil {
			return fmt.Errorf("health probe of %s/%s: %w: %w", p.Kind, p.ID, domain.ErrInvalid, err)
		}
		return nil
	case ProbeLibvirt, ProbeGuestAgent:
		h, err := libvirturi.Parse(p.Target)
		if err == nil && p.How == ProbeGuestAgent && h.Domain == "" {
			err = fmt.Errorf("%q: whose guest agent? Write the domain after #: %w", p.Target, domain.ErrInvalid)
		}
		if err != nil {
			return fmt.Errorf("health probe of %s/%s: %w", p.Kind, p.ID, err)
		}
		return nil
	}
	return fmt.Errorf("health probe of %s/%s: %q: use tcp, http, iscsi, nats, libvirt or guest-agent: %w", p.Kind, p.ID, p.How, domain.ErrInvalid)
}

// pace is the time between two of it, and that of one.
func (p Probe) pace(timing Timing) (every, timeout time.Duration) {
	every = cmp.Or(p.Every, timing.Beat)
	return every, cmp.Or(p.Timeout, 2*every)
}

// Once probes once, within the time that a probe has. The error says why the object is not well.
func (p Probe) Once(ctx context.Context, timing Timing) error {
	if err := p.Validate(); err != nil {
		return err
	}
	_, timeout := p.pace(timing)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return p.check(pageClient())(ctx)
}

// check makes the function that probes once, within ctx. A redirect is no success, and is not followed.
func (p Probe) check(client *http.Client) func(ctx context.Context) error {
	switch p.How {
	case ProbeHTTP:
		return func(ctx context.Context) error { return get(ctx, client, p.Target) }
	case ProbeISCSI:
		return func(ctx context.Context) error { return login(ctx, p.Target, p.CHAP) }
	case ProbeNATS:
		return func(ctx context.Context) error { return greeted(ctx, p.Target) }
	case ProbeLibvirt, ProbeGuestAgent:
		u, err := libvirturi.Parse(p.Target)
		h := hypervisor(u)
		switch {
		case err != nil:
			return func(context.Context) error { return err }
		case p.How == ProbeGuestAgent:
			return h.guestAnswers
		}
		return h.runs
	}
	return func(ctx context.Context) error { return connect(ctx, p.Target) }
}

func connect(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connect %s: %w", address, err)
	}
	return conn.Close()
}

func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("probe %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("probe %s: %w", url, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("probe %s: status %d", url, resp.StatusCode)
	}
	return nil
}

// login proves that a target serves a disk, not only that its port is open.
func login(ctx context.Context, url string, secrets chap.Settings) error {
	creds, err := chap.Read(secrets)
	if err != nil {
		return err
	}
	o := initiator.Options{Name: "iqn.2026-11.dev.holdfast:health"}
	if creds.User != "" {
		o.CHAP = initiator.CHAP{User: creds.User, Secret: creds.Secrets[0], MutualUser: creds.MutualUser}
		if len(creds.MutualSecrets) > 0 {
			o.CHAP.MutualSecret = creds.MutualSecrets[0]
		}
	}
	if until, ok := ctx.Deadline(); ok {
		o.LoginTimeout = time.Until(until)
		o.Timeout = o.LoginTimeout
	}
	s, err := initiator.Dial(ctx, url, o)
	if err != nil {
		return err
	}
	return s.Close()
}

// greeted proves that a NATS server takes connections: it speaks first (INFO).
func greeted(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connect %s: %w", address, err)
	}
	defer func() { _ = conn.Close() }()
	if until, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(until); err != nil {
			return fmt.Errorf("probe %s: %w", address, err)
		}
	}
	word := make([]byte, len("INFO "))
	if _, err := io.ReadFull(conn, word); err != nil {
		return fmt.Errorf("probe %s: no greeting: %w", address, err)
	}
	if string(word) != "INFO " {
		return fmt.Errorf("probe %s: what answers is no NATS server: %w", address, domain.ErrInvalid)
	}
	return nil
}
