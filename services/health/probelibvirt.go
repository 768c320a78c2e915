package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// hypervisor is a libvirt daemon, and a domain there where only that is asked about.
type hypervisor struct {
	network, address string
	uri              string // as the daemon takes it: without where it is reached
	domain           string
}

// libvirtSocket is where the system's daemon listens; libvirtPort is that of a daemon which listens for TCP without TLS.
const (
	libvirtSocket = "/run/libvirt/libvirt-sock"
	libvirtPort   = "16509"
)

// parseHypervisor takes a libvirt URI (libvirt.org/uri.html): DRIVER:///PATH[?socket=FILE] for a daemon of this machine, or
// DRIVER+tcp://HOST[:PORT]/PATH, each with #DOMAIN where that is what is asked about. Errors are domain.ErrInvalid.
func parseHypervisor(text string) (hypervisor, error) {
	u, err := url.Parse(text)
	if err != nil {
		return hypervisor{}, fmt.Errorf("%q: no libvirt URI: %w: %w", text, domain.ErrInvalid, err)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	h := hypervisor{uri: driver + "://" + u.Path, domain: u.Fragment}
	switch {
	case driver == "" || u.Opaque != "" || u.Path == "" || u.User != nil:
		return hypervisor{}, fmt.Errorf("%q: no libvirt URI: write it like qemu:///system or qemu+tcp://host/system: %w", text, domain.ErrInvalid)
	case u.Host == "" && (transport == "" || transport == "unix"):
		h.network, h.address = "unix", libvirtSocket
		if file := u.Query().Get("socket"); file != "" {
			h.address = file
		} else if u.Path == "/session" {
			return hypervisor{}, fmt.Errorf("%q: whose session? Write its socket: ?socket=/run/user/UID/libvirt/libvirt-sock: %w", text, domain.ErrInvalid)
		}
	case u.Host != "" && transport == "tcp":
		h.network, h.address = "tcp", u.Host
		if u.Port() == "" {
			h.address = net.JoinHostPort(u.Hostname(), libvirtPort)
		}
	default:
		return hypervisor{}, fmt.Errorf("%q: a probe reaches libvirt by its socket on this machine or by tcp: write it like qemu:///system or qemu+tcp://host/system: %w", text, domain.ErrInvalid)
	}
	return h, nil
}

// boundDialer gives one connection, which lasts as long as its context.
type boundDialer struct {
	ctx context.Context //nolint:containedctx // the library dials by a method without one
	h   hypervisor
}

// Dial implements go-libvirt's socket.Dialer.
func (d boundDialer) Dial() (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(d.ctx, d.h.network, d.h.address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { _ = conn.Close() }) // also of an exchange that hangs
	return conn, nil
}

// within speaks to the daemon for as long as ctx lasts.
func (h hypervisor) within(ctx context.Context, f func(*libvirt.Libvirt) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := libvirt.NewWithDialer(boundDialer{ctx, h})
	if err := l.ConnectToURI(libvirt.ConnectURI(h.uri)); err != nil {
		return fmt.Errorf("open %s by %s: %w", h.uri, h.address, errors.Join(err, ctx.Err()))
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s by %s: %w", h.uri, h.address, errors.Join(err, ctx.Err()))
	}
	return l.Disconnect()
}

// runs proves that the hypervisor answers and, where a domain is named, that it runs.
func (h hypervisor) runs(ctx context.Context) error {
	return h.within(ctx, func(l *libvirt.Libvirt) error {
		if h.domain == "" {
			_, err := l.ConnectGetVersion() // asked of the driver, not of the daemon alone
			return err
		}
		d, err := l.DomainLookupByName(h.domain)
		if err != nil {
			return err
		}
		state, _, err := l.DomainGetState(d, 0)
		if err != nil {
			return err
		}
		if libvirt.DomainState(state) != libvirt.DomainRunning { //nolint:gosec // a state is a small number
			return fmt.Errorf("domain %s is in state %d (virDomainState), does not run: %w", h.domain, state, domain.ErrUnavailable)
		}
		return nil
	})
}

// guestAnswers proves that the guest's own agent answers, so that its kernel and its user space live.
func (h hypervisor) guestAnswers(ctx context.Context) error {
	seconds := int32(1)
	if until, ok := ctx.Deadline(); ok {
		seconds = max(1, int32(time.Until(until)/time.Second))
	}
	return h.within(ctx, func(l *libvirt.Libvirt) error {
		d, err := l.DomainLookupByName(h.domain)
		if err != nil {
			return err
		}
		_, err = l.QEMUDomainAgentCommand(d, `{"execute":"guest-ping"}`, seconds, 0)
		return err
	})
}
