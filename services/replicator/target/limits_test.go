package target

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// dialFrom connects from another loopback address, which is another peer to the target.
func (b *bench) dialFrom(host string) *client {
	b.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}
	nc, err := d.DialContext(b.t.Context(), "tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.clientOn(nc)
}

func TestOneAddressCannotTakeEveryConnection(t *testing.T) {
	b := newBench(t, Config{MaxConnections: 6, MaxConnectionsPerPeer: 3}, nil)
	var mine []*client
	for range 3 {
		mine = append(mine, b.dialFrom("127.0.0.2"))
	}
	mine[0].login()
	b.dialFrom("127.0.0.2").gone()
	other := b.dialFrom("127.0.0.3")
	other.isid = 5
	if s := other.login(); s != 0 {
		t.Fatalf("another address: status %04x", s)
	}
	_ = mine[1].nc.Close()
	eventually(t, "the place of a closed connection is not free", func() bool { return b.srv.limits.connections("127.0.0.2") < 3 })
	mine[1] = b.dialFrom("127.0.0.2")
	mine[1].isid = 1
	if s := mine[1].login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
}

func (l *limits) connections(host string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[netip.MustParseAddr(host)]; p != nil {
		return p.connections
	}
	return 0
}

func TestSessionsOfOneAddressAreBounded(t *testing.T) {
	b := newBench(t, Config{MaxSessionsPerPeer: 2}, nil)
	for i := range 2 {
		c := b.dialFrom("127.0.0.2")
		c.isid = byte(i)
		if s := c.login(); s != 0 {
			t.Fatalf("status %04x", s)
		}
	}
	third := b.dialFrom("127.0.0.2")
	third.isid = 9
	if s := third.login(); s != iscsi.LoginOutOfResources {
		t.Fatalf("a third session: %04x", s)
	}
	again := b.dialFrom("127.0.0.2") // takes the place of the one it reinstates
	if s := again.login(); s != 0 {
		t.Fatalf("a session that comes back: %04x", s)
	}
	other := b.dialFrom("127.0.0.3")
	other.isid = 3
	if s := other.login(); s != 0 {
		t.Fatalf("another address: %04x", s)
	}
}

func TestWrongSecretsAreHeldUpForTheirAddressOnly(t *testing.T) {
	const delay = 400 * time.Millisecond
	b := newBench(t, Config{LoginBackoff: delay, MaxLoginBackoff: delay}, oneWay)
	wrong := &CHAP{User: oneWay.User, Secret: []byte("not the secret at all")}
	attempt := func(host string, secret *CHAP) uint16 {
		c := b.dialFrom(host)
		c.secret, c.name = secret, "iqn.2026-11.test:"+host
		return c.login()
	}
	var began time.Time
	for range freeFailures + 1 {
		began = time.Now()
		if s := attempt("127.0.0.2", wrong); s != iscsi.LoginAuthFailure {
			t.Fatalf("status %04x", s)
		}
	}
	if s := attempt("127.0.0.2", wrong); s != iscsi.LoginAuthFailure || time.Since(began) < delay {
		t.Fatalf("status %04x, %v after the one before", s, time.Since(began))
	}
	if s := attempt("127.0.0.3", oneWay); s != 0 {
		t.Fatalf("another address: status %04x", s)
	}
	if s := attempt("127.0.0.2", oneWay); s != 0 {
		t.Fatalf("the right secret after wrong ones: status %04x", s)
	}
	if wait, ok := b.srv.limits.turn(netip.MustParseAddr("127.0.0.2"), 0); wait != 0 || !ok {
		t.Fatalf("held up by %v after a right login", wait)
	}
}

func TestManyConnectionsGuessNoFasterThanOne(t *testing.T) {
	l := newLimits(&Config{Log: Config{}.withDefaults().Log, LoginBackoff: time.Second, MaxLoginBackoff: 4 * time.Second, MaxConnectionsPerPeer: 10})
	a := netip.MustParseAddr("192.0.2.1")
	for range freeFailures + 2 {
		l.failedLogin(a)
	}
	var last time.Duration = -1
	turns := 0
	for range 100 {
		wait, ok := l.turn(a, 20*time.Second)
		if !ok {
			break
		}
		if turns++; wait <= last {
			t.Fatalf("turn %d comes after %v, the one before after %v", turns, wait, last)
		}
		last = wait
	}
	if turns != 6 { // every 4 s
		t.Errorf("%d turns within 20 s", turns)
	}
	if wait, ok := l.turn(netip.MustParseAddr("192.0.2.2"), 0); wait != 0 || !ok {
		t.Errorf("another address waits %v", wait)
	}
}

func TestWhatIsRememberedOfAddressesIsBounded(t *testing.T) {
	l := newLimits(&Config{Log: Config{}.withDefaults().Log, LoginBackoff: time.Second, MaxLoginBackoff: time.Second, MaxConnectionsPerPeer: 1})
	here := netip.MustParseAddr("192.0.2.1")
	if !l.connect(here) || l.connect(here) {
		t.Fatal("not one connection")
	}
	for i := range maxPeers + 100 {
		l.failedLogin(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	if n := len(l.peers); n > maxPeers {
		t.Errorf("%d addresses", n)
	}
	if l.connect(here) {
		t.Error("an address with a connection was forgotten")
	}
	l.disconnect(here)
	if l.peers[here] != nil {
		t.Error("an address of which nothing has to be known is kept")
	}
}

func TestPeersAreAddressesAndIPv6Networks(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::"} {
		if got := peerOf(&net.TCPAddr{IP: net.ParseIP(in), Port: 1}); fmt.Sprint(got) != want {
			t.Errorf("%s counts for %v, want %s", in, got, want)
		}
	}
}

func TestOneAddressCannotTakeAllMemory(t *testing.T) {
	b := newBench(t, Config{MaxBufferedBytes: 2 << 20}, nil)
	greedy := b.dialFrom("127.0.0.2")
	if s := greedy.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	for i := range 16 { // it never sends the data
		greedy.send(greedy.command(iscsi.Write16CDB(0, 256, false), 128<<10, true), nil)
		if p := greedy.recv(); (p.Opcode() == iscsi.OpR2T) != (i < 8) {
			t.Fatalf("write %d of 128 KiB: %v", i, p.Opcode())
		}
	}
	other := b.dialFrom("127.0.0.3")
	other.isid = 1
	if s := other.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	other.do(iscsi.Read16CDB(0, 2048), 1<<20).want(t, iscsi.StatusGood)
	_ = greedy.nc.Close()
	eventually(t, "the memory of a session that ended is not given back", func() bool { return b.srv.buffered.Load() == 0 })
}

func TestAFloodOfFailedLoginsIsNotAFloodInTheLog(t *testing.T) {
	cfg := Config{}.withDefaults()
	l := newLimits(&cfg)
	a := netip.MustParseAddr("192.0.2.1")
	told := 0
	for range 10_000 {
		l.connect(a)
		if _, tell := l.refusal(a); tell {
			told++
		}
		l.disconnect(a)
	}
	if told != 8+10 {
		t.Errorf("%d of 10,000 are told", told)
	}
	l.begin(a)
	if n, tell := l.refusal(a); n != 1 || !tell {
		t.Errorf("the first failure after a login is number %d, told %v", n, tell)
	}
}
