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

// TestTheDirectWayLosesNoFrameToNewKeys: the sender's connection is made anew again and again while one message after the other is sent.
func TestTheDirectWayLosesNoFrameToNewKeys(t *testing.T) {
	urls := map[domain.SiteID]string{"a": site(t, "a").URL(), "b": site(t, "b").URL()}
	a, b := mesh(t, "a", urls), mesh(t, "b", urls)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 1)
	if err := b.Local().Subscribe(ctx, api.DirectSubject("erp", 257), func(_ context.Context, m bus.Message) { got <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	remote, _ := a.Conn("b")
	var renewals sync.WaitGroup
	for n := range 100 {
		w := remote.OpenDirect("erp", 257)
		if n%10 == 0 {
			renewals.Wait()
			renewals.Go(func() { remote.Renew(ctx) })
		}
		frame := fmt.Sprintf("frame %03d", n)
		settled, err := w.Send(ctx, []byte(frame))
		if err != nil {
			t.Fatalf("%s: %v", frame, err)
		}
		select {
		case f := <-got:
			if f != frame {
				t.Fatalf("%s arrives, want %s", f, frame)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is lost", frame)
		}
		settled()
		if n%10 == 0 {
			renewals.Wait()
			select {
			case <-w.Lost():
			default:
				t.Fatal("the way does not know that its connection was made anew")
			}
		}
	}
}
