package group

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// via gives the first target a transport, for the sites that are booted afterwards.
func (c *cluster) via(tr domain.Transport) {
	c.def.Targets[0].Transport = tr
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestARateLimitHoldsAndTheTargetEndsIdentical(t *testing.T) {
	const rate = 2 << 20
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{RateLimit: rate})
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	before, began := c.target("a", "b").SentBytes, time.Now()
	for i := range int64(6) {
		c.nodes["a"].write(0, i<<20, randomBytes(512<<10))
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("writers waited for the limit: %s", took)
	}
	c.follows("a", "b")
	took, sent := time.Since(began), float64(c.target("a", "b").SentBytes-before)
	// What is sent last is paid for afterwards, and a twentieth of a second's worth was saved up.
	if most := rate*(took.Seconds()+0.05)*1.1 + 512<<10 + 8192; sent < 3<<20 || sent > most {
		t.Errorf("%.2f MiB in %s at %d MiB/s", sent/(1<<20), took, rate>>20)
	}
	c.same("a", "b")
}

func TestCompressibleDataCrossesWithFewerBytesAndTheTargetEndsIdentical(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{Compression: domain.CompressionS2})
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	before := c.target("a", "b")
	text := bytes.Repeat([]byte("write ahead, follow behind. "), 40000)[:1<<20]
	for i := range int64(4) {
		c.nodes["a"].write(int(i%2), i<<20, text)
	}
	c.nodes["a"].write(0, 6<<20, randomBytes(64<<10))
	c.follows("a", "b")
	c.same("a", "b")
	after := c.target("a", "b")
	wire, frames := after.SentBytes-before.SentBytes, after.SentFrameBytes-before.SentFrameBytes
	if frames < 4<<20 || wire > frames/4 {
		t.Errorf("%d bytes of frames crossed as %d", frames, wire)
	}
}

func TestNothingIsCompressedOrHeldBackForASyncTarget(t *testing.T) {
	c := newCluster(t, domain.ModeSync)
	c.via(domain.Transport{RateLimit: domain.MinRate, Compression: domain.CompressionS2, Window: domain.MinWindow})
	c.boot("a", "b")
	c.promote("a", 257)
	c.follows("a", "b")
	text := bytes.Repeat([]byte("x"), 1<<20) // at 16 KiB/s a minute
	c.nodes["a"].write(0, 0, text)
	if s := c.target("a", "b"); s.SentBytes != s.SentFrameBytes || s.SentBytes < 1<<20 {
		t.Errorf("%d bytes of frames were sent as %d", s.SentFrameBytes, s.SentBytes)
	} else if s.Window <= uint64(domain.MinWindow) {
		t.Errorf("%d bytes may be on their way", s.Window)
	}
}

func TestAResyncIsCompressedAndExact(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.via(domain.Transport{Compression: domain.CompressionS2})
	diverge(c)
	c.nodes["b"].write(0, 1<<20, bytes.Repeat([]byte("resync "), 1<<17)[:512<<10])
	c.boot("a")
	c.follows("b", "a")
	c.same("a", "b")
}

func TestARecordOfTheWireIsOneOfTheStage(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	sizes := []int64{volumeBytes}
	r := record{kind: recordData, off: 4096, length: int64(len(payload)), payload: payload}
	plain := r.append(nil)
	r.packed = transport.Deflate(payload, domain.CompressionS2)
	wire := r.append(nil)
	if len(wire) >= len(plain)/4 {
		t.Fatalf("%d bytes went as %d", len(plain), len(wire))
	}
	if got, err := unpackRecord(wire); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if got, err := unpackRecord(plain); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("as it is: %d bytes, %v", len(got), err)
	}
	damaged := bytes.Clone(wire)
	damaged[4] ^= 1 // the checksum of the payload
	got, err := unpackRecord(damaged)
	if err == nil {
		_, err = parseRecord(got, sizes)
	}
	if !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a record whose payload is another: %v", err)
	}
	long := bytes.Clone(wire)
	long[16+3] = 0x7f // the length
	if _, err := unpackRecord(long); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a length that lies: %v", err)
	}
}
