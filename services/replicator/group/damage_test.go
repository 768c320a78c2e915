package group

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
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

// holdUp keeps b's volumes back for want of room, writes three blocks that b acknowledges: they are in its ring alone.
func holdUp(c *cluster) {
	c.t.Helper()
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	c.follows("a", "b")
	c.same("a", "b")
	b.fills("volume write")
	for i := range int64(3) {
		a.write(0, 4096*(i+1), block(0xacc0+uint64(i)))
	}
	c.told("b", api.HeldByDisk)
	if !c.inSync() {
		c.t.Fatal("b acknowledged nothing")
	}
}

func TestADamagedRingOfATargetThatIsStartedAgainIsRefusedAndNamed(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	a, b := c.nodes["a"], c.nodes["b"]
	holdUp(c)
	c.kill("b")
	b.fail.Store(nil)
	b.rot("journal", block(0xacc0))
	before, ring := b.image(0), b.file("journal")
	err := c.open("b")
	var damage *journal.CorruptError
	if !errors.As(err, &damage) || damage.Path != filepath.Join(b.dir, "journal") || damage.Offset == 0 || !strings.Contains(err.Error(), "whole folder aside") {
		t.Fatalf("opened: %v", err)
	}
	if !bytes.Equal(before, b.image(0)) || !bytes.Equal(ring, b.file("journal")) {
		t.Fatal("what is damaged was changed")
	}
	a.write(0, 4096*9, block(9)) // it goes on without b
	if c.inSync() {
		t.Fatal("a copy that is not open counts as in sync")
	}
	if err := os.Rename(b.dir, b.dir+".aside"); err != nil { // the mend that it names
		t.Fatal(err)
	}
	c.boot("b")
	c.follows("a", "b")
	eventually(t, "b is in sync again", c.inSync)
	c.same("a", "b")
}

func (n *node) file(name string) []byte {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.dir, name))
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// Nothing comes after the last frame of a ring that would show that it was whole: it is cut off as one whose write was under way.
// The primary knows better, before it counts on the target again.
func TestADamagedLastFrameOfATargetIsCutAndSentAgainBeforeTheTargetCounts(t *testing.T) {
	for _, onLoss := range []domain.OnTargetLoss{domain.TargetLossDegrade, domain.TargetLossSuspend} {
		t.Run(string(onLoss), func(t *testing.T) {
			c := newCluster(t, domain.ModeSync)
			c.def.OnTargetLoss = onLoss
			c.boot("a", "b")
			c.promote("a", 257)
			b := c.nodes["b"]
			holdUp(c)
			last := b.g.store.last()
			c.kill("b")
			b.fail.Store(nil)
			b.rot("journal", block(0xacc2))
			var sets [][]domain.SiteID
			c.quo.seen(func() { sets = append(sets, c.quo.inSync) })
			c.boot("b")
			if now := b.g.store.last(); now != last-1 {
				t.Fatalf("b goes up to %d, it was %d", now, last)
			}
			c.follows("a", "b")
			eventually(t, "b is in sync again", func() bool {
				c.quo.mu.Lock()
				defer c.quo.mu.Unlock()
				return len(sets) > 0 && slices.Contains(sets[len(sets)-1], "b")
			})
			c.quo.mu.Lock()
			first := sets[0]
			c.quo.mu.Unlock()
			if slices.Contains(first, "b") {
				t.Errorf("b counted before it had all that it had acknowledged: %v", sets)
			}
			c.same("a", "b")
			for i := range 3 {
				if !bytes.Equal(b.image(0)[4096*(i+1):][:4096], block(0xacc0+uint64(i))) {
					t.Fatalf("write %d is lost", i)
				}
			}
		})
	}
}

// rottenRing is a site b whose ring holds acknowledged frames that its volumes wait for, one of them damaged, after the loss of its primary.
func rottenRing(t *testing.T) (*cluster, *node) {
	t.Helper()
	c := newCluster(t, domain.ModeSync)
	c.boot("a", "b")
	c.promote("a", 257)
	b := c.nodes["b"]
	holdUp(c)
	b.rot("journal", block(0xacc1))
	c.kill("a")
	return c, b
}

// The frames that wait for the volumes are read from the ring again whenever the target begins again to follow.
func TestADamagedRingOfATargetThatFollowsAnewStopsTheCopyAndIsNeverServed(t *testing.T) {
	c, b := rottenRing(t)
	c.boot("a")
	c.promote("a", 514)
	c.stops("b", "corrupt at offset")
	if d := b.facts.detail("damage_found"); !strings.Contains(d, filepath.Join(b.dir, "journal")) || !strings.Contains(d, "whole folder aside") {
		t.Errorf("told: %q", d)
	}
	eventually(t, "a says why", func() bool { return strings.Contains(c.target("a", "b").Error, "corrupt at offset") })
	if n := b.g.Status().DamageFound; n != 1 {
		t.Errorf("one damaged frame was found %d times", n)
	}
	b.fail.Store(nil)
	c.kill("a")
	set := c.quo.grant("b", 770)
	if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 770, InSync: set}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "corrupt at offset") {
		t.Fatalf("promoted: %v", err)
	}
}

// A site that dies before its target has begun anew: the promotion is what reads the ring first.
func TestATargetWhoseRingIsDamagedIsNotPromoted(t *testing.T) {
	c, b := rottenRing(t)
	set := c.quo.grant("b", 514)
	if _, err := b.g.Promote(t.Context(), api.PromoteRequest{Group: "erp", Epoch: 514, InSync: set}); !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("promoted: %v", err)
	}
	c.stops("b", "corrupt at offset")
}
