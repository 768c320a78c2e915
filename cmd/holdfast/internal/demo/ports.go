package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strconv"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ports are where the parts of every site listen, each at the site's own address.
type ports struct {
	nats, dns, iscsi int
	link             int // the first of the proxies to other sites
	probe            int // the first host's health page
	service          int // the workloads'
}

// linkOf is which port of the proxies, from link on, leads from the i-th site to the j-th.
func linkOf(i, j int) int { return maxSites*i + j }

const maxSites = 4

// wellKnown are the ports that a newcomer expects of each part.
var wellKnown = ports{nats: 4222, dns: 5353, iscsi: 3260, link: 4300, probe: 7101, service: 8080}

// newLayout draws the addresses of a demo, with ports that are free on them. far adds a third data site.
func newLayout(ctx context.Context, dir string, far bool) (layout, error) {
	l := layout{dir: dir, octet: map[domain.SiteID]int{siteA: 11, siteB: 12, siteW: 13}}
	if far {
		l.octet[siteC] = 14
	}
	var err error
	for range 20 {
		var b [2]byte
		if _, err := rand.Read(b[:]); err != nil {
			return l, fmt.Errorf("draw loopback addresses: %w", err)
		}
		l.base = fmt.Sprintf("127.%d.%d", 20+int(b[0])%200, b[1])
		if err = l.choosePorts(ctx, wellKnown); err == nil {
			return l, nil
		}
	}
	return l, fmt.Errorf("no loopback addresses: %w: could not listen in 127.0.0.0/8 (%w); the demo needs a system whose whole loopback network is local, as Linux's is", domain.ErrUnavailable, err)
}

// choosePorts takes the wanted port of each part, or another one where a program that listens on every address has it.
func (l *layout) choosePorts(ctx context.Context, wanted ports) error {
	site := func(s domain.SiteID) string { return fmt.Sprintf("%s.%d", l.base, l.octet[s]) }
	all, data := []string{site(siteW)}, []string{}
	var vms []string
	for _, s := range l.data() {
		data, all = append(data, site(s)), append(all, site(s))
		for _, wl := range workloads() {
			vms = append(vms, l.vmAddr(wl, s))
		}
	}
	for _, c := range []struct {
		port        *int
		first, span int
		udp         bool
		hosts       []string
	}{
		{&l.ports.nats, wanted.nats, 1, false, all},
		{&l.ports.dns, wanted.dns, 1, true, data},
		{&l.ports.iscsi, wanted.iscsi, 1, false, data},
		{&l.ports.link, wanted.link, maxSites * maxSites, false, all},
		{&l.ports.probe, wanted.probe, 2, false, data},
		{&l.ports.service, wanted.service, 1, false, vms},
	} {
		var err error
		for *c.port = c.first; *c.port < c.first+20*portStep; *c.port += portStep {
			if err = free(ctx, c.hosts, *c.port, c.span, c.udp); err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const portStep = 211 // leads from no part's ports to another's within twenty steps

// free is nil when a range of ports can be listened on at every host.
func free(ctx context.Context, hosts []string, first, span int, udp bool) error {
	var lc net.ListenConfig
	for _, h := range hosts {
		for p := first; p < first+span; p++ {
			addr := net.JoinHostPort(h, strconv.Itoa(p))
			ln, err := lc.Listen(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			_ = ln.Close()
			if !udp {
				continue
			}
			pc, err := lc.ListenPacket(ctx, "udp", addr)
			if err != nil {
				return err
			}
			_ = pc.Close()
		}
	}
	return nil
}
