package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/libvirturi"
)

// hypervisor is a libvirt daemon, and a domain there where only that is asked about.
type hypervisor libvirturi.URI

// boundDialer gives one connection, which lasts as long as its context.
type boundDialer struct {
	ctx context.Context //nolint:containedctx // the library dials by a method without one
	h   hypervisor
}

// Dial implements go-libvirt's socket.Dialer.
func (d boundDialer) Dial() (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(d.ctx, d.h.Network, d.h.Address)
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
	if err := l.ConnectToURI(libvirt.ConnectURI(h.Name)); err != nil {
		return fmt.Errorf("open %s by %s: %w", h.Name, h.Address, errors.Join(err, ctx.Err()))
	}
	if err := f(l); err != nil {
		return fmt.Errorf("%s by %s: %w", h.Name, h.Address, errors.Join(err, ctx.Err()))
	}
	return l.Disconnect()
}

// runs proves that the hypervisor answers and, where a domain is named, that it runs.
func (h hypervisor) runs(ctx context.Context) error {
	return h.within(ctx, func(l *libvirt.Libvirt) error {
		if h.Domain == "" {
			_, err := l.ConnectGetVersion() // asked of the driver, not of the daemon alone
			return err
		}
		d, err := l.DomainLookupByName(h.Domain)
		if err != nil {
			return err
		}
		state, _, err := l.DomainGetState(d, 0)
		if err != nil {
			return err
		}
		if libvirt.DomainState(state) != libvirt.DomainRunning { //nolint:gosec // a state is a small number
			return fmt.Errorf("domain %s is in state %d (virDomainState), does not run: %w", h.Domain, state, domain.ErrUnavailable)
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
		d, err := l.DomainLookupByName(h.Domain)
		if err != nil {
			return err
		}
		_, err = l.QEMUDomainAgentCommand(d, `{"execute":"guest-ping"}`, seconds, 0)
		return err
	})
}
