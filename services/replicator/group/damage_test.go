package group

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// rot changes one bit of a file, where it holds a content.
func (n *node) rot(file string, content []byte) {
	n.t.Helper()
	path := filepath.Join(n.dir, file)
	raw, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	at := bytes.Index(raw, content)
	if at < 0 {
		n.t.Fatalf("%s does not hold the content", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{content[0] ^ 8}, int64(at)); err != nil {
		n.t.Fatal(err)
	}
}

func TestADamagedFrameOfTheRingIsNeverSentAndTheTargetIsMadeGoodFromTheVolumes(t *testing.T) {
	for name, lacks := range map[string]int{"still in the ring": 2, "let go by the ring": 96} {
		t.Run(name, func(t *testing.T) {
			if lacks > 8 {
				slow(t)
			}
			c := newCluster(t, domain.ModeAsync)
			c.boot("a", "b")
			c.promote("a", 257)
			a := c.nodes["a"]
			a.write(1, 0, block(1))
			c.follows("a", "b")
			c.kill("b")
			a.write(1, 8192, block(0x5eed))
			a.rot("journal", block(0x5eed))
			for i := range lacks {
				a.chunk(0, int64(i%4), byte(i))
			}
			a.g.current().window.skip() // as after a long time: what is sent is read from the ring
			c.boot("b")
			c.follows("a", "b")
			c.same("a", "b")
			st := a.g.Status()
			if st.DamageFound == 0 || !strings.Contains(st.DamageLast, filepath.Join(a.dir, "journal")+" corrupt at offset") || st.Error != "" {
				t.Fatalf("%d, %q, %q", st.DamageFound, st.DamageLast, st.Error)
			}
			if !strings.Contains(a.facts.detail("damage_found"), "corrupt at offset") {
				t.Fatalf("told: %q", a.facts.detail("damage_found"))
			}
			if ts := c.target("a", "b"); ts.Resync == nil || ts.Resync.CompareTotal != ts.VolumeBytes || ts.ResyncBytes > uint64(min(lacks, 4)<<18+8192)*11/10 {
				t.Fatalf("%d bytes were sent: %+v", ts.ResyncBytes, ts.Resync)
			}
		})
	}
}

// The frame crosses the real pipe, with one bit of its payload changed on the way.
func TestADamagedFrameOfThePipeIsRefusedNamedAndSentAgain(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.def.OnTargetLoss = domain.TargetLossSuspend
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	next := b.g.store.j.Next()
	raw, err := journal.Encode(&journal.Frame{Group: "erp", Epoch: 257, Number: next.Number, FirstLSN: next.FirstLSN, LastLSN: next.FirstLSN, PrevHeaderCRC: next.PrevHeaderCRC,
		Entries: []journal.Entry{{Op: journal.OpWrite, Off: 4096, Len: 4096, Data: block(0xbad)}}})
	if err != nil {
		t.Fatal(err)
	}
	raw[bytes.Index(raw, block(0xbad))+100] ^= 1
	w, err := b.mesh.Local().OpenPipe(t.Context(), "erp", 257)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Send(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b names the frame", func() bool { return b.facts.said("damage_found", "frame from the pipe of epoch") })
	a.write(0, 8192, block(2)) // waits for b
	c.follows("a", "b")
	c.same("a", "b")
	if bytes.Contains(b.image(0), block(0xbad)[:64]) || b.g.Status().DamageFound == 0 {
		t.Fatal("the damaged frame reached the volume, or was not counted")
	}
}

func TestADamagedPieceOfAResyncIsRefusedAndSentAgain(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	diverge(c)
	a := c.nodes["a"]
	came, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(came) })
	stop := func(place string) error {
		if place == "stage data" {
			first()
			<-goOn
		}
		return nil
	}
	a.fail.Store(&stop)
	c.boot("a")
	<-came
	a.g.mu.Lock()
	st := a.g.stage
	a.g.mu.Unlock()
	rec := record{kind: recordData, off: 4096, length: 4096, payload: block(0xbad)}
	b := rec.append((&sender{s: &session{g: a.g, st: a.g.store, epoch: st.epoch}}).resyncHeader(st.session, 0))
	b[len(b)-1] ^= 1
	if err := a.g.ResyncData(b); !errors.Is(err, domain.ErrInvalid) || a.g.Status().DamageFound != 1 {
		t.Fatalf("a damaged piece: %v", err)
	}
	close(goOn)
	c.follows("b", "a")
	c.same("a", "b")
}
