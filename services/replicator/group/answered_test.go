package group

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// Writes are answered once the journal has them, and brought to the volumes after that: who is answered must read what it wrote, all
// the same.
func TestWhoIsAnsweredReadsWhatItWrote(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeNone, domain.ModeAsync, domain.ModeSync} {
		t.Run(string(mode), func(t *testing.T) {
			c := newCluster(t, mode)
			c.boot("a", "b")
			c.promote("a", 257)
			u := c.nodes["a"].unit(0)
			var writers sync.WaitGroup
			for w := range int64(8) { // each has sixteen pages of its own
				writers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 7))
					for i := range uint64(200) {
						off := (w*16 + r.Int64N(12)) * 4096
						n := 1 + r.IntN(4)
						data := bytes.Repeat(block((i+1)<<8|uint64(w)), n)
						if i%5 == 4 {
							clear(data) // told as zeroes, without payload
						}
						want := bytes.Clone(data)
						if err := <-submit(u, &target.Command{Op: target.OpWrite, Off: off, Len: int64(len(data)), Data: data, Alone: i%3 == 0}); err != nil {
							t.Error(err)
							return
						}
						for j := range data { // it is the initiator's again
							data[j] = 0xee
						}
						got := make([]byte, len(data))
						if err := <-submit(u, &target.Command{Op: target.OpRead, Off: off, Len: int64(len(got)), Data: got}); err != nil || !bytes.Equal(got, want) {
							t.Errorf("writer %d, write %d: read %x, wrote %x: %v", w, i, got[:8], want[:8], err)
							return
						}
						if mapped, _, err := u.(target.Mapper).Extent(off, 4096); i%5 != 4 && (!mapped || err != nil) {
							t.Errorf("writer %d, write %d: told unmapped: %v", w, i, err)
						}
					}
				})
			}
			writers.Wait()
			if mode != domain.ModeNone {
				c.follows("a", "b")
				c.same("a", "b")
			}
		})
	}
}
