package demo

import (
	"net"
	"testing"
)

// Programs that listen on every address, as a NATS server, a resolver or a web server does, have the ports of this machine.
// The kernel picks the ports they have here, so that no test beside this one can have them on an address of its own.
func TestDemoFindsItsPortsBesideProgramsThatListenEverywhere(t *testing.T) {
	everywhere := func() int {
		ln, err := net.Listen("tcp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		return ln.Addr().(*net.TCPAddr).Port
	}
	pc, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	l, err := newLayout(t.Context(), t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	wanted := ports{
		nats: everywhere(), iscsi: everywhere(), service: everywhere(),
		link:  everywhere() - linkOf(1, 2), // in the midst of the span
		probe: everywhere() - 1,            // the second of two
		dns:   pc.LocalAddr().(*net.UDPAddr).Port,
	}
	if err := l.choosePorts(t.Context(), wanted); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		part          string
		wanted, chose int
	}{
		{"nats", wanted.nats, l.ports.nats},
		{"dns", wanted.dns, l.ports.dns},
		{"iscsi", wanted.iscsi, l.ports.iscsi},
		{"link", wanted.link, l.ports.link},
		{"probe", wanted.probe, l.ports.probe},
		{"service", wanted.service, l.ports.service},
	} {
		if p.chose <= p.wanted {
			t.Errorf("%s: port %d was chosen, where another program has %d", p.part, p.chose, p.wanted)
		}
	}
}
