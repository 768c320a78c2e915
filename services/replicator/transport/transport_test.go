package transport

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// sent takes turns for pieces of a size until the time is over, and gives the bytes that were sent.
func sent(t *testing.T, p *Pacer, tr domain.Transport, size int, d time.Duration) float64 {
	t.Helper()
	total := 0
	for end := time.Now().Add(d); time.Now().Before(end); {
		if err := p.Take(t.Context(), tr.Rate, size); err != nil {
			t.Fatal(err)
		}
		if time.Now().Before(end) {
			total += size
		}
	}
	return float64(total)
}

func TestRateLimitHoldsWithinTenPercent(t *testing.T) {
	for _, size := range []int{4096, 64 << 10, 256 << 10} {
		synctest.Test(t, func(t *testing.T) {
			var p Pacer
			got := sent(t, &p, domain.Transport{RateLimit: 2 << 20}, size, 5*time.Second)
			if want := 5.0 * (2 << 20); math.Abs(got-want) > 0.1*want {
				t.Errorf("pieces of %d: %.1f MiB in 5 s at 2 MiB/s", size, got/(1<<20))
			}
		})
	}
}

func TestRateLimitHoldsForManySendersTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		var mu sync.Mutex
		var wg sync.WaitGroup
		total := 0.0
		for range 4 {
			wg.Go(func() {
				n := sent(t, &p, domain.Transport{RateLimit: 1 << 20}, 64<<10, 10*time.Second)
				mu.Lock()
				total += n
				mu.Unlock()
			})
		}
		wg.Wait()
		if want := 10.0 * (1 << 20); math.Abs(total-want) > 0.1*want {
			t.Errorf("%.1f MiB in 10 s at 1 MiB/s", total/(1<<20))
		}
	})
}

func TestAScheduleSwitchesTheRateAtItsBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour - 5*time.Second) // virtual: the bubble begins at midnight UTC
		at := time.Now()
		clock := func(d time.Duration) domain.Clock { return domain.Clock(at.Add(d).Format("15:04")) }
		tr := domain.Transport{RateLimit: 1 << 20, Schedule: []domain.RateWindow{{From: clock(5 * time.Second), To: clock(time.Hour), RateLimit: 4 << 20}}}
		var p Pacer
		before := sent(t, &p, tr, 64<<10, 5*time.Second)
		after := sent(t, &p, tr, 64<<10, 5*time.Second)
		for what, r := range map[string][2]float64{"before": {before, 5 << 20}, "after": {after, 20 << 20}} {
			if math.Abs(r[0]-r[1]) > 0.1*r[1] {
				t.Errorf("%s the boundary: %.1f MiB in 5 s, want %.1f", what, r[0]/(1<<20), r[1]/(1<<20))
			}
		}
	})
}

func TestADebtIsPaidAtTheRateOfTheTime(t *testing.T) {
	now := time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	var p Pacer
	if p.Wait(now, 0) != 0 {
		t.Error("no limit, and a wait")
	}
	p.Sent(now, 1<<20, 10<<20)
	if w := p.Wait(now, 1<<20); w < 9900*time.Millisecond || w > 10*time.Second {
		t.Errorf("10 MiB at 1 MiB/s are paid for in %s", w)
	}
	if w := p.Wait(now, 10<<20); w > time.Second || w < 990*time.Millisecond {
		t.Errorf("at 10 MiB/s in %s", w)
	}
	if w := p.Wait(now, 0); w != 0 {
		t.Errorf("without a limit in %s", w)
	}
}

func TestWhatIsCompressibleCrossesSmallerAndComesOutTheSame(t *testing.T) {
	text := bytes.Repeat([]byte("holdfast "), 20000)
	for _, c := range []struct {
		name    string
		raw     []byte
		how     domain.Compression
		smaller bool
	}{
		{"text", text, domain.CompressionS2, true}, {"noise", noise(100 << 10), domain.CompressionS2, false}, {"nothing", nil, domain.CompressionS2, false},
		{"not asked for", text, domain.CompressionNone, false}, {"the zero value", text, "", false},
	} {
		raw := bytes.Clone(c.raw)
		packed := Pack(raw, c.how)
		if smaller := len(packed) < len(c.raw); smaller != c.smaller || c.smaller && len(packed) > len(c.raw)/4 {
			t.Errorf("%s: %d of %d bytes", c.name, len(packed), len(c.raw))
		}
		if back, err := Unpack(packed); err != nil || !bytes.Equal(back, c.raw) || !bytes.Equal(raw, c.raw) {
			t.Errorf("%s: came out as %d bytes, %v", c.name, len(back), err)
		}
	}
}

func TestALyingLengthTakesNoMemory(t *testing.T) {
	packed := Pack(bytes.Repeat([]byte("x"), 1<<20), domain.CompressionS2)
	lie := func(change func([]byte)) []byte {
		b := bytes.Clone(packed)
		change(b)
		return b
	}
	huge := append(bytes.Clone(packed[:headBytes]), 0xff, 0xff, 0xff, 0xff, 0x0f) // a block that says 4 GiB
	bomb := append(bytes.Clone(packed[:headBytes]), s2.Encode(nil, make([]byte, 64<<20))...)
	for name, b := range map[string][]byte{
		"the head says 4 GiB":         lie(func(b []byte) { copy(b[8:], []byte{0xff, 0xff, 0xff, 0xff}) }),
		"the head says more":          lie(func(b []byte) { b[10]++ }),
		"the block says 4 GiB":        huge,
		"64 MiB in a few KiB":         bomb,
		"64 MiB that both agree on":   lie2(bomb, 64<<20),
		"cut":                         packed[:len(packed)-1],
		"another version":             lie(func(b []byte) { b[4] = 2 }),
		"another algorithm":           lie(func(b []byte) { b[5] = 9 }),
		"nothing but a head":          packed[:headBytes],
		"a byte of the block changed": lie(func(b []byte) { b[headBytes] ^= 0x40 }),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Unpack(b)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 2*journal.MaxFrameBytes {
			t.Errorf("%s: took %d bytes", name, took)
		}
	}
}

func lie2(b []byte, n uint32) []byte {
	b = bytes.Clone(b)
	b[8], b[9], b[10], b[11] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	return b
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("HFJF, a frame"))
	f.Add(Pack(bytes.Repeat([]byte("y"), 10000), domain.CompressionS2))
	f.Add([]byte("HFPZ\x01\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, message []byte) {
		out, err := Unpack(message)
		if err != nil && !errors.Is(err, domain.ErrInvalid) || len(out) > max(journal.MaxFrameBytes, len(message)) {
			t.Errorf("%d bytes out of %d, %v", len(out), len(message), err)
		}
		if err == nil && len(out) != len(message) { // was an envelope
			if again, err := Unpack(Pack(out, domain.CompressionS2)); err != nil || !bytes.Equal(again, out) {
				t.Errorf("packed again: %d bytes, %v", len(again), err)
			}
		}
	})
}
