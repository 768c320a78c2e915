package health

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// silent takes connections and says nothing, as a service that hangs.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return l.Addr().String()
}

func TestEachKindOfProbeTellsWhatServesFromWhatDoesNot(t *testing.T) {
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
		}
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer page.Close()
	open := silent(t)
	for _, c := range []struct {
		how, target string
		well        bool
	}{
		{ProbeTCP, open, true},
		{ProbeTCP, "127.0.0.1:1", false},
		{ProbeNATS, srv.Addr(), true},
		{ProbeNATS, open, false}, // an open port is not enough
		{ProbeNATS, "127.0.0.1:1", false},
		{ProbeHTTP, page.URL + "/", true},
		{ProbeHTTP, page.URL + "/bad", false},
		{ProbeHTTP, page.URL + "/moved", false},
		{ProbeHTTP, "http://" + open, false},
		{ProbeISCSI, "iscsi://" + open + "/iqn.2026-11.dev.holdfast:x/0", false},
		{ProbeISCSI, "iscsi://127.0.0.1:1/iqn.2026-11.dev.holdfast:x/0", false},
		{ProbeLibvirt, "qemu+tcp://" + open + "/system", false},
		{ProbeLibvirt, "qemu+tcp://127.0.0.1:1/system", false},
		{ProbeLibvirt, "qemu:///system?socket=/nowhere", false},
		{ProbeGuestAgent, "qemu+tcp://" + open + "/system#dc1", false},
	} {
		p := Probe{Kind: assess.KindStorage, ID: "array", How: c.how, Target: c.target}
		if err := p.Validate(); err != nil {
			t.Errorf("%s %s: %v", c.how, c.target, err)
		}
		limit := 300 * time.Millisecond
		if c.well {
			limit = time.Minute
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		prober := newProber(nil, DefaultTiming())
		if err := p.check(prober.client)(ctx); (err == nil) != c.well {
			t.Errorf("%s %s: %v, want well: %v", c.how, c.target, err, c.well)
		}
		cancel()
	}
}

func TestProbesThatCannotBeAreRefused(t *testing.T) {
	for _, p := range []Probe{
		{Kind: "moon", ID: "x", How: ProbeTCP, Target: "h:1"},
		{Kind: "host", ID: "X Y", How: ProbeTCP, Target: "h:1"},
		{Kind: "host", ID: "x", How: "icmp", Target: "h"},
		{Kind: "host", ID: "x", How: ProbeTCP},
		{Kind: "host", ID: "x", How: ProbeHTTP, Target: "ftp://h"},
		{Kind: "storage", ID: "x", How: ProbeISCSI, Target: "iscsi://h"},
		{Kind: "host", ID: "x", How: ProbeTCP, Target: "h:1", Every: -1},
		{Kind: "host", ID: "x", How: ProbeLibvirt, Target: "/run/libvirt/libvirt-sock"},
		{Kind: "host", ID: "x", How: ProbeLibvirt, Target: "qemu+ssh://h/system"},
		{Kind: "host", ID: "x", How: ProbeLibvirt, Target: "qemu://h/system"},
		{Kind: "host", ID: "x", How: ProbeLibvirt, Target: "qemu:///session"},
		{Kind: "service", ID: "x", How: ProbeGuestAgent, Target: "qemu:///system"},
	} {
		if err := p.Validate(); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
