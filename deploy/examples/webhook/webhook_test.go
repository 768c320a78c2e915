package main

import (
	"context"
	"crypto/hmac"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const secret = "between the two of us"

// site is a real NATS server with a stream of events.
func site(t *testing.T, js bool) *nats.Conn {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: js, StoreDir: t.TempDir(), JetStreamDomain: "a", NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js {
		j, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := j.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{"hf.v1.evt.>"}}); err != nil {
			t.Fatal(err)
		}
	}
	return nc
}

// tell publishes events n..m, and waits until the server has them.
func tell(t *testing.T, nc *nats.Conn, n, m int) {
	t.Helper()
	for i := n; i <= m; i++ {
		if err := nc.Publish("hf.v1.evt.a.group.erp.promoted", fmt.Appendf(nil, `{"id":"%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// receiver accepts posts as answer says; accepted gets the bodies that got a 2xx.
type receiver struct {
	*httptest.Server
	accepted chan string
}

func newReceiver(t *testing.T, answer func(attempt int, body string) int) receiver {
	r := receiver{accepted: make(chan string, 1000)}
	attempt := 0
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		want := "sha256=" + sign([]byte(secret), req.Header.Get("X-Holdfast-Timestamp"), body)
		if got := req.Header.Get("X-Holdfast-Signature"); !hmac.Equal([]byte(got), []byte(want)) || req.Header.Get("X-Holdfast-Timestamp") == "" {
			t.Errorf("signature %q, want %q", got, want)
		}
		if got := req.Header.Get("Content-Type"); got != "application/cloudevents+json" {
			t.Errorf("content type %q", got)
		}
		attempt++
		code := answer(attempt, string(body))
		w.WriteHeader(code)
		if code/100 == 2 {
			r.accepted <- string(body)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func always(code int) func(int, string) int { return func(int, string) int { return code } }

func (r receiver) poster() *poster {
	p := newPoster(r.URL, []byte(secret))
	p.first, p.longest = time.Millisecond, 4*time.Millisecond
	return p
}

// expect waits for events n..m in this order.
func (r receiver) expect(t *testing.T, n, m int) {
	t.Helper()
	for i := n; i <= m; i++ {
		select {
		case got := <-r.accepted:
			if want := fmt.Sprintf(`{"id":"%d"}`, i); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("event %d does not come", i)
		}
	}
}

// bridge runs until the returned function is called.
func bridge(t *testing.T, nc *nats.Conn, state string, p *poster) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- followStored(ctx, nc, "hf.v1.evt.>", position(state), p.post) }()
	return func() {
		cancel()
		<-done
	}
}

func TestEventsArriveInOrderThoughTheReceiverFails(t *testing.T) {
	nc := site(t, true)
	r := newReceiver(t, func(attempt int, _ string) int {
		return []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusNoContent}[attempt%4]
	})
	defer bridge(t, nc, filepath.Join(t.TempDir(), "position"), r.poster())()
	tell(t, nc, 1, 50)
	r.expect(t, 1, 50)
}

func TestBridgeGoesOnAfterTheLastEventThatWasAccepted(t *testing.T) {
	nc, state := site(t, true), filepath.Join(t.TempDir(), "position")
	tell(t, nc, 1, 3)
	r := newReceiver(t, always(http.StatusOK))
	stop := bridge(t, nc, state, r.poster())
	r.expect(t, 1, 3)
	for raw := ""; strings.TrimSpace(raw) != "3"; { // the position follows the answer
		b, _ := os.ReadFile(state)
		raw = string(b)
	}
	stop()
	tell(t, nc, 4, 6) // while it is down
	defer bridge(t, nc, state, r.poster())()
	r.expect(t, 4, 6)
}

func TestEventThatWasNotAcceptedIsPostedAgainAfterARestart(t *testing.T) {
	nc, state := site(t, true), filepath.Join(t.TempDir(), "position")
	tell(t, nc, 1, 2)
	asked := make(chan string, 1000)
	down := newReceiver(t, func(_ int, body string) int {
		asked <- body
		return http.StatusBadGateway
	})
	stop := bridge(t, nc, state, down.poster())
	<-asked
	<-asked
	stop()
	r := newReceiver(t, always(http.StatusOK))
	defer bridge(t, nc, state, r.poster())()
	r.expect(t, 1, 2)
}

func TestEventThatTheReceiverRefusesDoesNotHoldUpTheRest(t *testing.T) {
	nc := site(t, true)
	r := newReceiver(t, func(_ int, body string) int {
		if strings.Contains(body, `"1"`) {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	defer bridge(t, nc, filepath.Join(t.TempDir(), "position"), r.poster())()
	tell(t, nc, 1, 3)
	r.expect(t, 2, 3)
}

func TestLiveEventsNeedNoJetStream(t *testing.T) {
	nc := site(t, false)
	r := newReceiver(t, always(http.StatusOK))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- followLive(ctx, nc, "hf.v1.evt.>", r.poster().post) }()
	for id := 1; len(r.accepted) == 0; id++ { // until the subscription is there
		tell(t, nc, 0, 0)
	}
	cancel()
	if err := <-done; err == nil || ctx.Err() == nil {
		t.Errorf("ended with %v", err)
	}
}

func TestWithoutJetStreamAStateIsRefusedWithTheMend(t *testing.T) {
	nc := site(t, false)
	err := followStored(t.Context(), nc, "hf.v1.evt.>", position(filepath.Join(t.TempDir(), "p")), nil)
	if err == nil || !strings.Contains(err.Error(), "STATE") {
		t.Errorf("%v", err)
	}
}

func TestABrokenPositionIsNotTakenForTheBeginning(t *testing.T) {
	state := filepath.Join(t.TempDir(), "position")
	if err := os.WriteFile(state, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := position(state).read(); err == nil {
		t.Errorf("read %d", n)
	}
}

func TestMissingSettingsAreNamed(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"WEBHOOK_URL": {"NATS_URL": "nats://127.0.0.1:1"},
		"NATS_URL":    {"WEBHOOK_URL": "http://127.0.0.1:1"},
	} {
		err := run(t.Context(), func(k string) string { return env[k] })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v", want, err)
		}
	}
}

func TestWaitsBetweenAttemptsGrowToTheirLimit(t *testing.T) {
	var times []time.Time
	r := newReceiver(t, func(attempt int, _ string) int {
		times = append(times, time.Now())
		if attempt < 6 {
			return http.StatusBadGateway
		}
		return http.StatusOK
	})
	p := r.poster()
	p.first, p.longest = 5*time.Millisecond, 20*time.Millisecond
	if err := p.post(t.Context(), []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	for i, least := range []time.Duration{5, 10, 20, 20, 20} {
		if got := times[i+1].Sub(times[i]); got < least*time.Millisecond {
			t.Errorf("wait %d was %v, want %v or more", i+1, got, least*time.Millisecond)
		}
	}
	if !slices.IsSortedFunc(times, time.Time.Compare) {
		t.Error("attempts overlap")
	}
}
