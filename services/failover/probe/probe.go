// Package probe asks as a client would: a name at one authority over DNS (RFC 1035, UDP), and a page over HTTP with the trace
// context in its headers.
package probe

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Resolve asks the authority (host:port) for the address of a name. ipv6 asks for AAAA. Errors: domain.ErrUnavailable when it
// did not answer or does not know (yet).
func Resolve(ctx context.Context, authority, name string, ipv6 bool) (netip.Addr, error) {
	addr, err := resolve(ctx, authority, strings.TrimSuffix(name, ".")+".", ipv6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s at %s: %w: %w", name, authority, domain.ErrUnavailable, err)
	}
	return addr, nil
}

func resolve(ctx context.Context, authority, fqdn string, ipv6 bool) (netip.Addr, error) {
	name, err := dnsmessage.NewName(fqdn)
	if err != nil {
		return netip.Addr{}, err
	}
	kind := dnsmessage.TypeA
	if ipv6 {
		kind = dnsmessage.TypeAAAA
	}
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32())}, //nolint:gosec // 16 random bits of 32
		Questions: []dnsmessage.Question{{Name: name, Type: kind, Class: dnsmessage.ClassINET}}}
	raw, err := q.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", authority)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(raw); err != nil {
		return netip.Addr{}, err
	}
	buf := make([]byte, 1500)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return netip.Addr{}, err
		}
		var reply dnsmessage.Message
		if reply.Unpack(buf[:n]) != nil || reply.ID != q.ID || !reply.Response {
			continue // not the answer to this question
		}
		return address(reply)
	}
}

func address(m dnsmessage.Message) (netip.Addr, error) {
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in the answer (%s)", m.RCode)
}

// Get fetches a page of a VM and wants status 200; at most 4 KiB of it are returned. Errors: domain.ErrUnavailable.
func Get(ctx context.Context, client *http.Client, address string, port int, path string) (string, error) {
	url := "http://" + net.JoinHostPort(address, fmt.Sprint(port)) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w: %w", url, domain.ErrInvalid, err)
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("get %s: %w: %w", url, domain.ErrUnavailable, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return "", fmt.Errorf("get %s: %w: %w", url, domain.ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %w: status %s", url, domain.ErrUnavailable, resp.Status)
	}
	return string(body), nil
}
