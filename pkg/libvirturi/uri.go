// Package libvirturi reads the URIs by which libvirt's daemons are named, as far as a client without a helper program reaches them: by their
// socket on this machine, and by TCP.
package libvirturi

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// URI is a libvirt daemon, and a domain there where only that is meant.
type URI struct {
	Network, Address string // of the daemon, as package net has them
	Name             string // as the daemon takes it: without where it is reached
	Domain           string // empty: the hypervisor itself
}

// defaultSocket is where the system's daemon listens; defaultPort is that of a daemon which listens for TCP without TLS.
const (
	defaultSocket = "/run/libvirt/libvirt-sock"
	defaultPort   = "16509"
)

// Parse takes a libvirt URI (libvirt.org/uri.html): DRIVER:///PATH[?socket=FILE] for a daemon of this machine, or
// DRIVER+tcp://HOST[:PORT]/PATH, each with #DOMAIN where that is what is asked about. Errors are domain.ErrInvalid.
func Parse(text string) (URI, error) {
	u, err := url.Parse(text)
	if err != nil {
		return URI{}, fmt.Errorf("%q: no libvirt URI: %w: %w", text, domain.ErrInvalid, err)
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	h := URI{Name: driver + "://" + u.Path, Domain: u.Fragment}
	switch {
	case driver == "" || u.Opaque != "" || u.Path == "" || u.User != nil:
		return URI{}, fmt.Errorf("%q: no libvirt URI: write it like qemu:///system or qemu+tcp://host/system: %w", text, domain.ErrInvalid)
	case u.Host == "" && (transport == "" || transport == "unix"):
		h.Network, h.Address = "unix", defaultSocket
		if file := u.Query().Get("socket"); file != "" {
			h.Address = file
		} else if u.Path == "/session" {
			return URI{}, fmt.Errorf("%q: whose session? Write its socket: ?socket=/run/user/UID/libvirt/libvirt-sock: %w", text, domain.ErrInvalid)
		}
	case u.Host != "" && transport == "tcp":
		h.Network, h.Address = "tcp", u.Host
		if u.Port() == "" {
			h.Address = net.JoinHostPort(u.Hostname(), defaultPort)
		}
	default:
		return URI{}, fmt.Errorf("%q: a probe reaches libvirt by its socket on this machine or by tcp: write it like qemu:///system or qemu+tcp://host/system: %w", text, domain.ErrInvalid)
	}
	return h, nil
}
