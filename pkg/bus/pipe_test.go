package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestAPipeLosesNoFrameToNewKeys: both ends' connections are made anew again and again while one frame after the other is sent,
// each only when the one before has arrived. A lost one would come again after 30 s.
func TestAPipeLosesNoFrameToNewKeys(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := b.Local().CreatePipe(ctx, "erp", 257, 16<<20); err != nil {
		t.Fatal(err)
	}
	got, ended := make(chan string, 100), make(chan error, 1)
	go func() {
		for {
			err := b.Local().ReadPipe(ctx, "erp", 257, func(f []byte) error { got <- string(f); return nil })
			if !errors.Is(err, domain.ErrUnavailable) { // as its caller does
				ended <- err
				return
			}
		}
	}()
	remote, _ := a.Conn("b")
	w, err := remote.OpenPipe(ctx, "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	var renewals sync.WaitGroup
	for n := range 300 {
		if n%10 == 0 {
			renewals.Wait()
			renewals.Go(func() { b.Local().Renew(ctx) })
			renewals.Go(func() { remote.Renew(ctx) })
		}
		frame := fmt.Sprintf("frame %03d", n)
		sent, err := w.Send(ctx, []byte(frame))
		if err != nil {
			t.Fatalf("%s: %v", frame, err)
		}
		limit := time.After(20 * time.Second)
		for sent != nil || frame != "" {
			select {
			case err := <-sent:
				if sent = nil; err != nil {
					t.Fatalf("%s: %v", frame, err)
				}
			case f := <-got:
				if frame != "" && f > frame {
					t.Fatalf("%s arrives, want %s", f, frame)
				}
				if f == frame { // an earlier one may come again
					frame = ""
				}
			case err := <-ended:
				t.Fatalf("the reader ended: %v", err)
			case <-limit:
				t.Fatalf("%s is lost", frame)
			}
		}
	}
	renewals.Wait()
}

// TestTheDirectWayLosesNoFrameToNewKeys: the sender's connection is made anew again and again while messages are on their way. What is not
// settled holds that up, and who sends meanwhile is told to wait, and not made to: it settles what was sent.
func TestTheDirectWayLosesNoFrameToNewKeys(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 1000)
	if err := b.Local().Subscribe(ctx, api.DirectSubject("erp", 257), func(_ context.Context, m bus.Message) { got <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	remote, _ := a.Conn("b")
	for n := range 10 {
		w := remote.OpenDirect("erp", 257)
		first, _, err := w.Send([]byte(fmt.Sprint(n, 0)))
		if err != nil {
			t.Fatal(err)
		}
		settle := []func(){first}
		var renewed sync.WaitGroup
		renewed.Go(func() { remote.Renew(ctx) })
		var opens <-chan struct{}
		for opens == nil { // until the connection is about to be made anew
			settled, shut, err := w.Send([]byte(fmt.Sprint(n, len(settle))))
			if err != nil {
				t.Fatal(err)
			}
			if opens = shut; shut == nil {
				settle = append(settle, settled)
			}
		}
		for i, settled := range settle {
			select {
			case m := <-got:
				if m != fmt.Sprint(n, i) {
					t.Fatalf("%s arrives, want %d %d", m, n, i)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%d %d is lost", n, i)
			}
			settled()
		}
		<-opens
		renewed.Wait()
		select {
		case <-w.Lost():
		default:
			t.Fatal("the way does not know that its connection was made anew")
		}
	}
}
