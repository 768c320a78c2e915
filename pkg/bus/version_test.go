package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

func meshOf(t *testing.T, url string, v api.Version, log *bytes.Buffer) *bus.Mesh {
	t.Helper()
	m, err := bus.Dial(bus.Config{Site: "a", Service: "test", URLs: map[domain.SiteID]string{"a": url}, Version: v,
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if err := m.Local().AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestServicesOfAnotherMajorVersionRefuseOneAnother(t *testing.T) {
	url := site(t, "a").URL()
	var said bytes.Buffer
	old, calls := meshOf(t, url, api.Version{Major: 1, Minor: 0}, &said), 0
	if err := old.Local().Serve(t.Context(), "replicator", map[string]bus.Endpoint{
		"rejoin": bus.Answer(func(context.Context, api.Empty) (api.Empty, error) { calls++; return api.Empty{}, nil }),
	}); err != nil {
		t.Fatal(err)
	}
	if err := old.Local().Handle(t.Context(), api.VoteSubject("a", "probe"), func(context.Context, []byte) ([]byte, error) {
		calls++
		return []byte("{}"), nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v       api.Version
		refused bool
	}{{api.Version{Major: 1, Minor: 7}, false}, {api.Version{Major: 2, Minor: 0}, true}} {
		calls = 0
		peer := meshOf(t, url, c.v, &bytes.Buffer{}).Local()
		_, err := bus.Call[api.Empty](t.Context(), peer, "replicator", "rejoin", api.Empty{})
		_, voted := peer.Request(t.Context(), api.VoteSubject("a", "probe"), nil)
		for _, err := range []error{err, voted} {
			if c.refused != errors.Is(err, domain.ErrRefused) || !c.refused && err != nil {
				t.Errorf("a peer of version %s: %v", c.v, err)
			}
			if c.refused && (!strings.Contains(err.Error(), "1.0") || !strings.Contains(err.Error(), "2.0") || !strings.Contains(err.Error(), "upgrade")) {
				t.Errorf("both versions and the mend are to be named: %v", err)
			}
		}
		if c.refused != (calls == 0) {
			t.Errorf("a peer of version %s had %d requests carried out", c.v, calls)
		}
	}
	if n := strings.Count(said.String(), "peer refused"); n != 1 {
		t.Errorf("the refusal is to be logged once, not %d times:\n%s", n, said.String())
	}
}

func TestAHeartbeatSaysVersionAndTime(t *testing.T) {
	m := meshOf(t, site(t, "a").URL(), api.Version{Major: 1, Minor: 4}, &bytes.Buffer{})
	got := make(chan api.Heartbeat, 16)
	if err := m.Local().Subscribe(t.Context(), "hf.v1.hb.>", func(_ context.Context, msg bus.Message) {
		var hb api.Heartbeat
		if json.Unmarshal(msg.Data, &hb) == nil {
			got <- hb
		}
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go m.Beat(ctx, api.Heartbeat{Site: "a", Node: "failover", Kind: "failover", Boot: "x"}, time.Millisecond)
	one, two := <-got, <-got
	if one.Seq != 1 || two.Seq != 2 || one.Version != "1.4" || two.Wall.Before(one.Wall) || time.Since(one.Wall) > time.Minute {
		t.Fatalf("%+v %+v", one, two)
	}
}

func TestAWatchBeginsAgainAfterItsServerWasRestarted(t *testing.T) {
	dir := t.TempDir()
	first, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	m := meshOf(t, first.URL(), api.Version{}, &bytes.Buffer{})
	local := m.Local()
	if err := local.EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := local.CompareAndSwap(t.Context(), api.BucketDesired, "group.erp", []byte("{}"), 0); err != nil {
		t.Fatal(err)
	}
	seen, ended := make(chan string, 4), make(chan error, 1)
	go func() {
		ended <- local.WatchKeys(t.Context(), api.BucketDesired, "group.>", func(e bus.Entry) { seen <- e.Key })
	}()
	<-seen
	first.Stop()
	if err := <-ended; !errors.Is(err, domain.ErrUnavailable) {
		t.Fatalf("the watch ended with %v", err)
	}
	again, err := natsd.Start(natsd.Config{Site: "a", Listen: first.Addr(), StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Stop)
	if err := local.AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			_ = local.WatchKeys(ctx, api.BucketDesired, "group.>", func(e bus.Entry) { seen <- e.Key })
		}
	}()
	select {
	case key := <-seen:
		if key != "group.erp" {
			t.Fatal(key)
		}
	case <-ctx.Done():
		t.Fatal("nothing is seen after the server's restart")
	}
}

func TestARequestEndsWithItsConnection(t *testing.T) {
	server := site(t, "a")
	m := meshOf(t, server.URL(), api.Version{}, &bytes.Buffer{})
	came := make(chan struct{})
	if err := m.Local().Handle(t.Context(), "slow", func(ctx context.Context, _ []byte) ([]byte, error) {
		close(came)
		<-ctx.Done()
		return nil, ctx.Err()
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := m.Local().Request(ctx, "slow", nil)
		ended <- err
	}()
	<-came
	server.Stop()
	select {
	case err := <-ended:
		if !errors.Is(err, domain.ErrUnavailable) || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "connection was lost") {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the request waits for a reply that was lost")
	}
}
