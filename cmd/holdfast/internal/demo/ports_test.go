package demo

import (
	"net"
	"testing"
)

// Programs that listen on every address, as a NATS server, a resolver or a web server does, have the ports of this machine.
func TestDemoFindsItsPortsBesideProgramsThatListenEverywhere(t *testing.T) {
	taken := map[int]bool{}
	for _, addr := range []string{":4222", ":3260", ":8080", ":7102", ":4304"} {
		if ln, err := net.Listen("tcp4", addr); err == nil { // else another program has it, which is as good
			t.Cleanup(func() { _ = ln.Close() })
		}
	}
	if pc, err := net.ListenPacket("udp4", ":5353"); err == nil {
		t.Cleanup(func() { _ = pc.Close() })
	}
	l, err := newLayout(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{4222, 3260, 8080, 7101, 4300, 5353} {
		taken[p] = true
	}
	for _, p := range []int{l.ports.nats, l.ports.dns, l.ports.iscsi, l.ports.link, l.ports.probe, l.ports.service} {
		if taken[p] || p == 0 {
			t.Errorf("port %d was chosen: %+v", p, l.ports)
		}
	}
}
