package group

import (
	"bytes"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// noise is content that no other seed has.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := range min(8, n-i) {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

const largeBytes = 72<<20 + 512

// forgotten makes a large volume equal at a and b, lets a go on alone until neither its ring nor, for it is lost, its map
// tells what b lacks, and leaves a primary and b dead. It gives how many bytes differ, and those that are zeroes at a.
func forgotten(t *testing.T) (c *cluster, differ, zeroes int) {
	t.Helper()
	c = newCluster(t, domain.ModeAsync)
	c.def.Volumes[0].SizeBytes = largeBytes
	c.boot("a", "b")
	c.promote("a", 257)
	a := c.nodes["a"]
	for off := int64(0); off < 32<<20; off += 1 << 20 {
		a.write(0, off, noise(uint64(off)+1, 1<<20))
	}
	c.follows("a", "b")
	c.same("a", "b")
	c.kill("b")
	for i := range int64(200) { // scattered, and one run
		a.write(0, i*36*4096, noise(uint64(9000+i), 4096))
	}
	a.write(0, 40<<20, noise(77, 1<<20))
	a.write(0, largeBytes-512, noise(78, 512))
	if err := await(t, submit(a.unit(0), &target.Command{Op: target.OpUnmap, Off: 30 << 20, Len: 1 << 20})); err != nil {
		t.Fatal(err)
	}
	fillRing(t, a, c.nodes["a"].g.Status().HeadLSN)
	c.kill("a")
	if err := os.Remove(a.g0(c).bitmapPath("b")); err != nil {
		t.Fatal(err)
	}
	for v := range 2 {
		ours, theirs := a.image(v), c.nodes["b"].image(v)
		for off := 0; off < len(ours); off += 4096 {
			end := min(off+4096, len(ours))
			if bytes.Equal(ours[off:end], theirs[off:end]) {
				continue
			}
			differ += end - off
			if allZero(ours[off:end]) {
				zeroes += end - off
			}
		}
	}
	c.boot("a")
	c.promote("a", 513)
	return c, differ, zeroes
}

// g0 is a store's paths alone.
func (n *node) g0(c *cluster) *store { return &store{dir: n.dir, group: c.def} }

func TestWithRingAndMapLostOnlyWhatDiffersIsSent(t *testing.T) {
	slow(t)
	c, differ, zeroes := forgotten(t)
	c.boot("b")
	c.follows("a", "b")
	c.same("a", "b")
	ts := c.target("a", "b")
	if ts.Resync == nil || ts.Resync.ComparedBytes != largeBytes+volumeBytes {
		t.Fatalf("nothing was compared: %+v", ts.Resync)
	}
	sent := ts.ResyncBytes + ts.Resync.HashBytes
	t.Logf("%d bytes differ, of them %d zeroes; %d sent, %d of hashes", differ, zeroes, ts.ResyncBytes, ts.Resync.HashBytes)
	if float64(sent) > 1.1*float64(differ) {
		t.Fatalf("sent %d bytes, %d of them hashes, where %d differ", sent, ts.Resync.HashBytes, differ)
	}
	if float64(sent) > 1.1*float64(differ-zeroes)+64<<10 {
		t.Fatalf("sent %d bytes: blocks of zeroes went with their payload (%d differ, %d of them zeroes)", sent, differ, zeroes)
	}
}

// killedAtPiece has a target die with a piece of what a resync sends, and take none after it; hit is closed then.
func (n *node) killedAtPiece(number int32) (hit <-chan struct{}) {
	var pieces atomic.Int32
	reached := make(chan struct{})
	stop := func(place string) error {
		if place != "stage data" {
			return nil
		}
		piece := pieces.Add(1)
		if piece == number {
			close(reached)
		}
		if piece >= number {
			return errKilled
		}
		return nil
	}
	n.fail.Store(&stop)
	return reached
}

func TestAResyncThatWasKilledGoesOnWhereItStood(t *testing.T) {
	slow(t)
	for _, dead := range []domain.SiteID{"b", "a"} {
		t.Run(string(dead), func(t *testing.T) {
			c, differ, _ := forgotten(t)
			hit := c.nodes["b"].killedAtPiece(150)
			c.boot("b")
			<-hit
			c.kill(dead)
			c.nodes["b"].fail.Store(nil)
			c.boot(dead)
			if dead == "a" {
				c.promote("a", 769)
			}
			c.nodes["a"].write(0, 0, noise(5, 4096)) // was staged; it is not the primary's any more
			c.follows("a", "b")
			c.same("a", "b")
			ts := c.target("a", "b")
			t.Logf("%d bytes differ; the second attempt: %d sent, %+v", differ, ts.ResyncBytes, *ts.Resync)
			if ts.Resync.ResumedBytes == 0 || ts.ResyncBytes+ts.Resync.ResumedBytes > uint64(float64(differ)*1.1)+512<<10 {
				t.Fatalf("%d bytes differ, %d were staged, %d sent again", differ, ts.Resync.ResumedBytes, ts.ResyncBytes)
			}
		})
	}
}

func TestAStageIsReadAsFarAsItMakesSense(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.nodes["a"].write(1, 0, block(1)) // what a copy without any change is sent goes into its volumes
	c.follows("a", "b")
	c.kill("a")
	c.kill("b")
	c.boot("b")
	s := c.nodes["b"].g.store
	st, err := s.beginStage(257, 1, s.slots())
	if err != nil {
		t.Fatal(err)
	}
	one := record{kind: recordData, off: 8192, length: 8192, payload: append(block(1), block(2)...)}
	for _, r := range []record{one, {kind: recordZero, off: 4096 * 8, length: 4096}, {kind: recordData, off: 12288, length: 4096, payload: block(3)}} {
		if err := st.add(r.append(nil), r); err != nil {
			t.Fatal(err)
		}
	}
	torn := record{kind: recordData, off: 4096 * 20, length: 4096, payload: block(9)}.append(nil)
	torn[len(torn)-1] ^= 1
	if err := st.add(torn, record{kind: recordData}); err != nil {
		t.Fatal(err)
	}
	if err := st.w.Flush(); err != nil {
		t.Fatal(err)
	}
	st.drop()
	if _, err := s.vols()[0].WriteAt(bytes.Repeat([]byte{0xee}, 40960), 0); err != nil {
		t.Fatal(err)
	}
	again, err := s.beginStage(257, 2, s.slots())
	if err != nil {
		t.Fatal(err)
	}
	defer again.drop()
	if got := again.resumed.set.Bytes(); got != 3*4096 {
		t.Fatalf("%d bytes are taken for staged", got)
	}
	want := bytes.Repeat([]byte{0xee}, 65536)
	clear(want[40960:])
	copy(want[8192:], block(1))
	copy(want[12288:], block(3))
	clear(want[32768:36864])
	tree, err := s.stageTree(again, stretch{volume: 0, off: 0, length: 65536})
	if err != nil {
		t.Fatal(err)
	}
	w := hashmap.Compare(hashmap.Build(want), hashmap.Build(make([]byte, len(want))))
	for q, more := w.Next(); more; q, more = w.Next() {
		a, err := tree.Answer(q)
		if err != nil || w.Take(a) != nil {
			t.Fatal(err)
		}
	}
	if len(w.Differing()) != 0 {
		t.Fatalf("blocks %v are not what the image and the records say", w.Differing())
	}
}

func TestStretchesCoverASetOnce(t *testing.T) {
	sizes := []int64{40<<20 + 512, 4096}
	set := extent.New(sizes)
	set.Mark(0, 16<<20-4096, 8192)
	set.Mark(0, 17<<20, 4096)
	set.Mark(0, 40<<20, 512)
	set.Mark(1, 0, 4096)
	var got []stretch
	for at := range stretches(sizes, set) {
		got = append(got, at)
	}
	want := []stretch{{0, 0, 16 << 20, 4096}, {0, 16 << 20, 16 << 20, 8192}, {0, 32 << 20, 8<<20 + 512, 512}, {1, 0, 4096, 4096}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}
