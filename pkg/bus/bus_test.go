package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"go.opentelemetry.io/otel/trace"
	"log/slog"
)

func site(t *testing.T, id domain.SiteID) *natsd.Server {
	t.Helper()
	s, err := natsd.Start(natsd.Config{Site: id, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func mesh(t *testing.T, self domain.SiteID, urls map[domain.SiteID]string) *bus.Mesh {
	t.Helper()
	m, err := bus.Dial(bus.Config{Site: self, Service: "test", URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for _, s := range m.Sites() {
		c, _ := m.Conn(s)
		if err := c.AwaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestCallCarriesErrorsAsSentinelsAndTrace(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	var seen trace.TraceID
	err := b.Local().Serve(t.Context(), "replicator", map[string]bus.Endpoint{
		"promote": bus.Answer(func(ctx context.Context, r api.PromoteRequest) (api.PromoteReply, error) {
			seen = trace.SpanContextFromContext(ctx).TraceID()
			if r.Epoch < 5 {
				return api.PromoteReply{}, fmt.Errorf("promote group %s: %w:\nepoch %s", r.Group, domain.ErrStaleEpoch, r.Epoch)
			}
			return api.PromoteReply{Group: r.Group, Epoch: r.Epoch}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	cb, err := a.Conn("b")
	if err != nil {
		t.Fatal(err)
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	got, err := bus.Call[api.PromoteReply](ctx, cb, "replicator", "promote", api.PromoteRequest{Group: "erp", Epoch: 7})
	if err != nil || got.Epoch != 7 {
		t.Fatalf("call: %+v, %v", got, err)
	}
	if seen != sc.TraceID() {
		t.Fatalf("trace id %s did not cross, want %s", seen, sc.TraceID())
	}
	_, err = bus.Call[api.PromoteReply](ctx, cb, "replicator", "promote", api.PromoteRequest{Group: "erp", Epoch: 1})
	if !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("want stale epoch across the wire, got %v", err)
	}
	if _, err := bus.Call[api.PromoteReply](ctx, cb, "replicator", "nothing", api.Empty{}); !errors.Is(err, domain.ErrUnavailable) {
		t.Fatalf("want unavailable where nobody answers, got %v", err)
	}
	if _, err := a.Conn("z"); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("want not found, got %v", err)
	}
}

func TestCompareAndSwapRefusesAStaleRevision(t *testing.T) {
	m := mesh(t, "a", map[domain.SiteID]string{"a": site(t, "a").URL()})
	c := m.Local()
	if err := c.EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), api.BucketDesired, "group.erp"); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("want not found, got %v", err)
	}
	rev, err := c.CompareAndSwap(t.Context(), api.BucketDesired, "group.erp", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CompareAndSwap(t.Context(), api.BucketDesired, "group.erp", []byte("x"), 0); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("second create: want conflict, got %v", err)
	}
	if _, err := c.CompareAndSwap(t.Context(), api.BucketDesired, "group.erp", []byte("2"), rev); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CompareAndSwap(t.Context(), api.BucketDesired, "group.erp", []byte("3"), rev); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("stale swap: want conflict, got %v", err)
	}
	zero := uint64(0)
	if _, err := c.Append(t.Context(), "hf.v1.run.p.r.s", []byte("1"), "", &zero); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), "hf.v1.run.p.r.s", []byte("2"), "", &zero); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("stale append: want conflict, got %v", err)
	}
}

func TestEventsArriveInOrderOnceAndWithTheirTrace(t *testing.T) {
	m := mesh(t, "a", map[domain.SiteID]string{"a": site(t, "a").URL()})
	c := m.Local()
	if err := c.EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ev := bus.NewEvents(ctx, c, "quorum", slog.New(slog.DiscardHandler))
	for i := range 3 {
		f := event.LeaseChanged{Fact: "epoch_granted", Group: "erp", Site: "a", Epoch: domain.Epoch(i + 1)}
		for range 2 { // a repeat under the same id is not stored twice
			ev.Publish(ctx, fmt.Sprintf("erp-%d-epoch_granted", i+1), f)
		}
	}
	var got []domain.Epoch
	err := c.FollowEvents(ctx, nil, bus.FromStart, func(_ context.Context, e event.Event, f event.Fact) {
		if e.Subject != "hf.v1.evt.a.group.erp.epoch_granted" {
			t.Errorf("subject %s", e.Subject)
		}
		got = append(got, f.(*event.LeaseChanged).Epoch)
		if len(got) == 3 {
			cancel()
		}
	})
	if err != nil || len(got) != 3 || got[0] != 1 || got[2] != 3 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestPipeKeepsOrderAndASealedPipeRefusesItsWriter(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.Local().CreatePipe(ctx, "erp", 257, 16<<20); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		for { // sealed between two of its questions it hears nothing more, and has to ask again
			err := b.Local().ReadPipe(ctx, "erp", 257, func(f []byte) error { got <- string(f); return nil })
			if !errors.Is(err, domain.ErrUnavailable) {
				ended <- err
				return
			}
		}
	}()
	cb, _ := a.Conn("b")
	w, err := cb.OpenPipe(ctx, "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	var results []<-chan error
	for i := range 50 {
		r, err := w.Send(ctx, fmt.Appendf(nil, "frame %d", i))
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, r)
	}
	for i, r := range results {
		if err := <-r; err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f := <-got; f != fmt.Sprintf("frame %d", i) {
			t.Fatalf("frame %d: got %q", i, f)
		}
	}
	second, err := cb.OpenPipe(ctx, "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := second.Send(ctx, []byte("another writer")); err != nil || <-r != nil {
		t.Fatalf("writer that re-opened: %v", err)
	}
	r, err := w.Send(ctx, []byte("the first writer, overtaken"))
	if err == nil {
		err = <-r
	}
	if !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("overtaken writer: want conflict, got %v", err)
	}
	if err := b.Local().SealPipe(ctx, "erp", 257); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("reader of a sealed pipe: want not found, got %v", err)
	}
	if r, err = second.Send(ctx, []byte("late")); err == nil {
		err = <-r
	}
	if err == nil {
		t.Fatal("a sealed pipe took a frame")
	}
	if _, err := cb.OpenPipe(ctx, "erp", 257); !errors.Is(err, domain.ErrNotFound) {
		t.Fatalf("open of a sealed pipe: want not found, got %v", err)
	}
}

// TestAFrameThatWasDeliveredInVainComesAgainAtOnce: a reader that died, or whose connection did, with frames in its hands.
func TestAFrameThatWasDeliveredInVainComesAgainAtOnce(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // less than the consumer's time to acknowledge
	defer cancel()
	if err := b.Local().CreatePipe(ctx, "erp", 257, 16<<20); err != nil {
		t.Fatal(err)
	}
	cb, _ := a.Conn("b")
	w, err := cb.OpenPipe(ctx, "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if r, err := w.Send(ctx, fmt.Appendf(nil, "frame %d", i)); err != nil || <-r != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	died := errors.New("died")
	if err := b.Local().ReadPipe(ctx, "erp", 257, func([]byte) error { return died }); !errors.Is(err, died) {
		t.Fatalf("first reader: %v", err)
	}
	var got []string
	err = b.Local().ReadPipe(ctx, "erp", 257, func(f []byte) error {
		if got = append(got, string(f)); len(got) == 3 {
			return b.Local().Reconnect() // its frame is not acknowledged any more
		}
		return nil
	})
	if !errors.Is(err, domain.ErrUnavailable) || fmt.Sprint(got) != "[frame 0 frame 1 frame 2]" {
		t.Fatalf("reader whose connection was lost: got %v, %v", got, err)
	}
	for errors.Is(err, domain.ErrUnavailable) && ctx.Err() == nil { // as its caller does
		err = b.Local().ReadPipe(ctx, "erp", 257, func(f []byte) error {
			got = append(got, string(f))
			return died
		})
	}
	if !errors.Is(err, died) || got[len(got)-1] != "frame 2" {
		t.Fatalf("the frame in between: got %v, %v", got, err)
	}
}
