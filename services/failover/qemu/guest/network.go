package guest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The addresses of QEMU's user network.
var (
	guestAddress = netip.MustParseAddr("10.0.2.15").As4()
	guestMask    = [4]byte{255, 255, 255, 0}
	gateway      = netip.MustParseAddr("10.0.2.2").As4()
)

// networkUp gives eth0 its address and the default route, and brings lo up.
func networkUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	set := func(name string, request uint, address [4]byte) error {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(address[:]); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, request, r)
	}
	up := func(name string) error {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"lo up", func() error { return up("lo") }},
		{"address", func() error { return set("eth0", unix.SIOCSIFADDR, guestAddress) }},
		{"mask", func() error { return set("eth0", unix.SIOCSIFNETMASK, guestMask) }},
		{"eth0 up", func() error { return up("eth0") }},
		{"default route", addDefaultRoute},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// addDefaultRoute sends RTM_NEWROUTE (rtnetlink(7)) for 0.0.0.0/0 by the gateway.
func addDefaultRoute() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const length = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	m := make([]byte, length)
	ne := binary.NativeEndian
	ne.PutUint32(m[0:], length)
	ne.PutUint16(m[4:], unix.RTM_NEWROUTE)
	ne.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	route := m[unix.SizeofNlMsghdr:]
	route[0], route[4], route[5], route[6], route[7] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	attr := route[unix.SizeofRtMsg:]
	ne.PutUint16(attr[0:], unix.SizeofRtAttr+4)
	ne.PutUint16(attr[2:], unix.RTA_GATEWAY)
	copy(attr[unix.SizeofRtAttr:], gateway[:])
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if n >= unix.SizeofNlMsghdr+4 && ne.Uint16(reply[4:]) == unix.NLMSG_ERROR {
		if code := int32(ne.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
