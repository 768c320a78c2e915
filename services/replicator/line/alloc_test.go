package line

import (
	"context"
	"runtime"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// TestNothingButTheMessageIsAllocated counts what both ends allocate together for 1,600 messages of 8 KiB, each waited for: the
// buffer that take keeps. The standard library's TLS allocates a small reader for each record that it reads, two for
// a message and its ack.
func TestNothingButTheMessageIsAllocated(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: the race detector allocates")
	}
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, _ := server(t, creds(site))
		o, closing := s.Open(func(context.Context, []byte) (Ack, error) { return Ack{}, nil })
		defer closing()
		acks := make(chan struct{}, 1)
		c := dialed(t, o, creds(other), func(Ack) { acks <- struct{}{} })
		message := make([]byte, 8<<10)
		run := func(count int) {
			for range count {
				if err := c.Send(message); err != nil {
					t.Fatal(err)
				}
				<-acks
			}
		}
		run(160)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(1600)
		runtime.ReadMemStats(&after)
		made, bytes := after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
		each := uint64(1)
		if creds(site) != nil {
			each += 2
		}
		t.Logf("%.2f allocations, %d bytes a message", float64(made)/1600, bytes/1600)
		if made > each*1600+160 || bytes > 1600*(8<<10+vfs.PageSize+each*64) {
			t.Errorf("%d allocations of %d bytes for 1600 messages", made, bytes)
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	for name, in := range map[string]installation{"plain": nil, "TLS": secured(b)} {
		b.Run(name, func(b *testing.B) {
			s, _ := server(b, in.creds(b, site, "replicator"))
			o, closing := s.Open(none)
			defer closing()
			acks := make(chan struct{}, 1)
			c := dialed(b, o, in.creds(b, other, "replicator"), func(Ack) { acks <- struct{}{} })
			message := make([]byte, 8<<10)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Send(message); err != nil {
					b.Fatal(err)
				}
				<-acks
			}
		})
	}
}
