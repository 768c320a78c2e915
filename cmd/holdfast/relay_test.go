package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/relay"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// TestATargetIsFollowedByWayOfAnother has three replicators: a sends to b at once and to c behind, and neither of a and c has a way to the
// other but by b's relay.
func TestATargetIsFollowedByWayOfAnother(t *testing.T) {
	r := newReplicasAt(t, []domain.SiteID{"a", "b", "c"}, domain.ModeSync, func(g *domain.Group) {
		g.Targets = append(g.Targets, domain.Target{Site: "c", Mode: domain.ModeAsync})
	})
	between := r.relay("127.0.0.1:0", "a", "c")
	address := between.Addr()
	const nowhere = "nats://no-such-host.invalid:4222"
	r.sees = map[domain.SiteID]map[domain.SiteID]string{
		"a": {"a": r.urls["a"], "b": r.urls["b"], "c": nowhere},
		"c": {"c": r.urls["c"], "b": r.urls["b"], "a": nowhere},
	}
	r.relays = map[domain.SiteID]map[domain.SiteID]string{"a": {"c": address}, "c": {"a": address}}
	for _, site := range []domain.SiteID{"a", "b", "c"} {
		r.start(site)
	}
	disk := &numbered{t: t, disk: r.promote("a", domain.NewEpoch(0, 1, 1))}
	disk.write(64)
	r.hasAll("a", "b")
	r.hasAll("a", "c")

	between.Stop()
	disk.write(64) // and none of them fails
	r.until("the loss of the relay is seen at the primary", func() bool { return r.target("a", "c").State != api.TargetStreaming })
	disk.write(64)
	r.hasAll("a", "b")
	if st := r.target("a", "c"); st.LagBytes == 0 {
		t.Errorf("c lacks nothing while nobody relays: %+v", st)
	}
	between = r.relay(address, "a", "c")
	r.hasAll("a", "c")
	disk.write(64)
	r.hasAll("a", "c")

	between.Stop()
	r.until("the loss of the relay is seen at the primary", func() bool { return r.target("a", "c").State != api.TargetStreaming })
	disk.write(32) // that c lacks when a is lost
	r.hasAll("a", "b")
	r.stop["a"]()
	disk.disk = r.promote("b", domain.NewEpoch(0, 2, 2))
	disk.write(32)
	r.hasAll("b", "c")
	if st := r.target("b", "c"); st.SentBytes+st.ResyncBytes > 2<<20 {
		t.Errorf("c lacked 256 KiB and was sent %d bytes and %d by resync", st.SentBytes, st.ResyncBytes)
	}
	want := disk.image()
	for _, site := range []domain.SiteID{"b", "c"} {
		r.until("site "+string(site)+" holds what was written", func() bool {
			got, err := os.ReadFile(filepath.Join(r.dirs[site], "erp", "data.img"))
			return err == nil && bytes.Equal(got, want)
		})
	}
}

// relay runs the relay of site b.
func (r *replicas) relay(listen string, to ...domain.SiteID) *relay.Server {
	r.t.Helper()
	cfg := relay.Config{Site: "b", Listen: listen, To: map[domain.SiteID]string{}, PerPeer: 16, Timing: relay.DefaultTiming()}
	for _, site := range to {
		u, err := url.Parse(r.urls[site])
		if err != nil {
			r.t.Fatal(err)
		}
		cfg.To[site] = u.Host
	}
	s, err := relay.Start(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(s.Stop)
	return s
}

// target is how a primary sees one of its targets.
func (r *replicas) target(primary, site domain.SiteID) api.TargetStatus {
	r.t.Helper()
	st, err := ask1[api.ReplicatorStatus](r, primary, api.VerbStatus, api.GroupRequest{})
	if err != nil || len(st.Groups) != 1 {
		r.t.Fatalf("status of site %s: %+v, %v", primary, st, err)
	}
	for _, target := range st.Groups[0].Targets {
		if target.Site == site {
			return target
		}
	}
	return api.TargetStatus{}
}

// hasAll waits until a target has everything that its primary has.
func (r *replicas) hasAll(primary, site domain.SiteID) {
	r.t.Helper()
	r.until("site "+string(site)+" has all of site "+string(primary), func() bool {
		st, err := ask1[api.ReplicatorStatus](r, primary, api.VerbStatus, api.GroupRequest{})
		if err != nil || len(st.Groups) != 1 {
			return false
		}
		for _, target := range st.Groups[0].Targets {
			if target.Site == site {
				return target.State == api.TargetStreaming && target.DurableLSN >= st.Groups[0].HeadLSN
			}
		}
		return false
	})
}

// numbered writes blocks of 4 KiB, each with its number, one after the other.
type numbered struct {
	t    *testing.T
	disk *initiator.Session
	n    int
}

func (w *numbered) write(blocks int) {
	w.t.Helper()
	for range blocks {
		if err := w.disk.Write(w.t.Context(), numberedBlock(uint64(w.n)+1), int64(w.n)*4096, false); err != nil {
			w.t.Fatalf("write %d: %v", w.n, err)
		}
		w.n++
	}
}

// image is what the volume holds then.
func (w *numbered) image() []byte {
	out := make([]byte, 0, replicaBytes)
	for i := range w.n {
		out = append(out, numberedBlock(uint64(i)+1)...)
	}
	return out[:replicaBytes]
}

// TestTheRelayOfASiteRunsByItself: as under systemd and in a container, with the site's file and nothing else.
func TestTheRelayOfASiteRunsByItself(t *testing.T) {
	w, err := net.Listen("tcp", "127.0.0.1:0") // the server that speaks first
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() {
		for c, err := w.Accept(); err == nil; c, err = w.Accept() {
			c.Write([]byte("INFO"))
		}
	}()
	sample, err := os.ReadFile("../../deploy/examples/site-b.yaml")
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("127.%d.%d.1", 20+rand.IntN(200), rand.IntN(256)) // of loopback, where no other test has its ports
	file := filepath.Join(t.TempDir(), "site-b.yaml")
	text := strings.Replace(string(sample), "127.0.0.1:4224", w.Addr().String(), 1)
	writeFile := func(more string) {
		if err := os.WriteFile(file, []byte(text+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeFile("")
	if o := holdfast(t.Context(), "relay", "--config", file); o.code != 2 || !strings.Contains(o.err.Error(), "relay.listen is not set") {
		t.Fatalf("without one: exit %d, %v", o.code, o.err)
	}
	writeFile(fmt.Sprintf("relay: {listen: '%s:4230', to: [a, w]}\nmetrics: {listen: '%s:9190'}\n", own, own))
	if o := holdfast(t.Context(), "config", "validate", file); !strings.Contains(o.stdout, ", relays to a and w\n") {
		t.Errorf("config validate says %q, %v", o.stdout, o.err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan outcome, 1)
	go func() { ended <- holdfast(ctx, "relay", "--config", file) }()
	for end := time.Now().Add(time.Minute); holdfast(t.Context(), "healthcheck", "relay", "--config", file).code != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never was well")
		}
	}
	c, err := relay.Dialer{To: "w", Relay: own + ":4230", Timeout: time.Minute}.Dial("tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if got := make([]byte, 4); true {
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "INFO" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	m, err := scrape(t.Context(), own+":9190")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.is(1, telemetry.RelayConnections, `to="w"`, `service="relay"`), m.is(0, telemetry.RelayConnections, `to="a"`), m.is(1, telemetry.ServiceReady)); err != nil {
		t.Error(err)
	}
	stop()
	if o := <-ended; o.code != 0 {
		t.Errorf("stopped: exit %d, %v", o.code, o.err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the relay")
	}
}

// TestAWayRoundIsShown: where one looks whether a site is reached.
func TestAWayRoundIsShown(t *testing.T) {
	sample, err := os.ReadFile("../../deploy/examples/site-a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "site-a.yaml")
	text := strings.NewReplacer(`4223", dns: "127.0.0.1:5302"}`, `4223", relay: "127.0.0.1:4230"}`, `nats: "nats://127.0.0.1:4224"}`, `nats: "nats://127.0.0.1:4224", via: b}`).Replace(string(sample))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := holdfast(t.Context(), "config", "validate", file); !strings.HasSuffix(o.stdout, "plans, reaches w via b\n") {
		t.Errorf("config validate says %q, %v", o.stdout, o.err)
	}
	var out bytes.Buffer
	if err := printStatus(&out, []siteStatus{{Site: "w", Reachable: true, Via: "b"}}); err != nil || !strings.Contains(out.String(), "w     true via b  ") {
		t.Errorf("status says\n%s%v", out.String(), err)
	}
	if o := holdfast(t.Context(), "quorum", "check", "--config", file); !strings.Contains(o.stdout, "Q32 warning, b: site a reaches w only via site b") {
		t.Errorf("quorum check says\n%s%v", o.stdout, o.err)
	}
}
