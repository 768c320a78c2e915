package nbd

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

func TestAUnitThatMayNotAnswerDropsTheConnection(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(false)
	b.unit.set(func(u *memUnit) { u.holding = true })
	c.ask(cmdWrite, 0, 0, 512, make([]byte, 512))
	<-b.unit.arrived
	b.unit.set(func(u *memUnit) { u.allowed = false })
	b.unit.release()
	if n := c.gone(); n != 0 {
		t.Errorf("%d bytes left", n)
	}
	d := b.dial()
	d.put(uint32(3), uint64(magicOption), uint32(optGo), uint32(len(goData(testExport))), goData(testExport))
	if n := d.gone(); n != 0 {
		t.Errorf("%d bytes answer a client that came later", n)
	}
}

// TestMayAnswerIsAskedWhileALongAnswerLeaves takes an answer slowly: the unit loses its right in the middle of it.
func TestMayAnswerIsAskedWhileALongAnswerLeaves(t *testing.T) {
	b := newBenchOn(t, Config{}, newMemUnit(32<<20))
	c := b.open(false)
	c.ask(cmdRead, 0, 0, 32<<20, nil)
	c.take(simpleLen)
	b.unit.set(func(u *memUnit) { u.allowed = false })
	if n := c.gone(); n >= 32<<20 {
		t.Error("the whole answer left")
	}
}

func TestAFencedUnitDropsTheConnectionWithoutAnAnswer(t *testing.T) {
	b := newBench(t, Config{})
	for _, async := range []bool{false, true} {
		c := b.open(false)
		b.unit.set(func(u *memUnit) {
			u.async = async
			u.fail = func(*target.Command) error { return fmt.Errorf("late: %w", target.ErrFenced) }
		})
		c.ask(cmdWrite, 0, 0, 512, make([]byte, 512))
		if n := c.gone(); n != 0 {
			t.Errorf("%d bytes answer", n)
		}
		b.unit.set(func(u *memUnit) { u.fail = nil })
	}
}

// TestAfterRemoveExportNothingIsAnsweredOrInFlight removes an export under load, again and again.
func TestAfterRemoveExportNothingIsAnsweredOrInFlight(t *testing.T) {
	b := newBench(t, Config{})
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		var wg sync.WaitGroup
		b.unit.set(func(u *memUnit) { u.async = true })
		for range 4 {
			c := b.open(true)
			wg.Go(func() {
				for {
					if _, err := c.nc.Write([]byte("\x25\x60\x95\x13\x00\x00\x00\x00cookie__\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00")); err != nil {
						return
					}
				}
			})
			wg.Go(func() { _, _ = io.Copy(io.Discard, c.r) })
		}
		eventually(t, "no load", func() bool { b.unit.mu.Lock(); defer b.unit.mu.Unlock(); return len(b.unit.commands) > 200 })
		if err := b.srv.RemoveExport(testExport); err != nil {
			t.Fatal(err)
		}
		// With an asynchronous unit every completion is a goroutine: none may touch the data any more.
		b.unit.set(func(u *memUnit) {
			u.commands = nil
			u.fail = func(*target.Command) error { t.Error("in flight after the removal"); return nil }
		})
		b.srv.mu.Lock()
		for c := range b.srv.conns {
			if c.exp != nil {
				select {
				case <-c.gone:
				default:
					t.Error("a connection is not gone")
				}
			}
		}
		b.srv.mu.Unlock()
		wg.Wait()
		b.unit.set(func(u *memUnit) { u.fail = nil })
		if err := b.srv.AddExport(testExport, b.unit); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemoveExportWaitsForWhatIsWithTheUnit(t *testing.T) {
	b := newBench(t, Config{})
	c := b.open(false)
	b.unit.set(func(u *memUnit) { u.holding = true })
	c.ask(cmdWrite, 0, 0, 512, make([]byte, 512))
	<-b.unit.arrived
	removed := make(chan error, 1)
	go func() { removed <- b.srv.RemoveExport(testExport) }()
	if n := c.gone(); n != 0 {
		t.Errorf("%d bytes answer", n)
	}
	select {
	case err := <-removed:
		t.Fatalf("removed while a write was in flight: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	b.unit.release()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	d := b.dial()
	d.put(uint32(3))
	if _, last := d.option(optGo, goData(testExport)); last != repErrUnknown {
		t.Errorf("go to a removed export: %#x", last)
	}
}
