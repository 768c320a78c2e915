// Package probe measures a link with requests that the other side answers: small ones for the round trip, larger ones for the
// bandwidth each way. It uses the connection it is handed, which is the one that replication uses, and takes care not to starve it:
// it sends for half of the time at most, in bursts of a fraction of a second, never has more on its way than the link holds up for
// 50 ms or so, and leaves a burst out while replication lags.
//
// A request begins with the length of the answer that is wanted (u32, little-endian); the rest of it is ballast, and so is
// the answer.
package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	headBytes  = 4
	chunkBytes = 64 << 10
	maxChunks  = 64 // on their way at once: 4 MiB
	maxQueue   = 50 * time.Millisecond
	shortBurst = 150 * time.Millisecond
	beat       = 20 * time.Millisecond // between two small requests
	patience   = 2 * time.Second       // for an answer
)

// Answer is the answer to a request. domain.ErrInvalid for one that asks for too much.
func Answer(request []byte) ([]byte, error) {
	if len(request) < headBytes {
		return nil, fmt.Errorf("probe of %d bytes: %w", len(request), domain.ErrInvalid)
	}
	n := binary.LittleEndian.Uint32(request)
	if n > chunkBytes || len(request) > headBytes+chunkBytes {
		return nil, fmt.Errorf("probe of %d bytes for %d: %w: %d bytes each way are the most", len(request), n, domain.ErrInvalid, chunkBytes)
	}
	return ballast(int(n)), nil
}

// ballast is bytes that no compression on the way makes fewer.
func ballast(n int) []byte {
	b := make([]byte, n, n+8)
	x := uint64(n) | 1<<40
	for i := 0; i < n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:i+8], x)
	}
	return b
}

// Path carries a request to the other side and its answer back.
type Path func(ctx context.Context, request []byte) ([]byte, error)

// Options bound a measurement.
type Options struct {
	Duration  time.Duration // of all of it: two fifths for round trips, the rest for bandwidth
	RateLimit int64         // bytes a second while bandwidth is measured; 0: none
	Busy      func() bool   // whether replication needs the link now; nil: never
}

// Measure measures a link. It fails when nothing came back at all, or ctx ended.
func Measure(ctx context.Context, path Path, o Options) (m api.LinkMeasure, err error) {
	times, lost, err := roundTrips(ctx, path, o.Duration*2/5)
	if err != nil {
		return m, err
	}
	m.RoundTrip = summary(times, lost)
	rtt := time.Duration(m.RoundTrip.P50 * float64(time.Millisecond))
	up := meter{path: path, o: o, rtt: rtt, request: ballast(headBytes + chunkBytes)}
	binary.LittleEndian.PutUint32(up.request, 0)
	if m.Out, err = up.run(ctx, o.Duration*3/10); err != nil {
		return m, err
	}
	back := meter{path: path, o: o, rtt: rtt, request: binary.LittleEndian.AppendUint32(nil, chunkBytes)}
	m.Back, err = back.run(ctx, o.Duration*3/10)
	return m, err
}

// roundTrips asks again and again, one after the other.
func roundTrips(ctx context.Context, path Path, d time.Duration) (times []time.Duration, lost int, err error) {
	end := time.Now().Add(d)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	request := make([]byte, 32)
	binary.LittleEndian.PutUint32(request, 28)
	for len(times)+lost < 3 || time.Now().Before(end) {
		began := time.Now()
		rctx, cancel := context.WithTimeout(ctx, patience)
		_, err := path(rctx, request)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, 0, fmt.Errorf("measure round trips: %w", ctx.Err())
		case errors.Is(err, domain.ErrRefused), errors.Is(err, domain.ErrInvalid), errors.Is(err, domain.ErrNotFound):
			return nil, 0, fmt.Errorf("measure round trips: %w", err)
		case err != nil:
			lost++
		default:
			times = append(times, time.Since(began))
		}
		if len(times) == 0 && lost == 3 {
			return nil, lost, fmt.Errorf("measure round trips: %w: is the replicator of the other site running?", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return times, lost, nil
}

// summary sorts times.
func summary(times []time.Duration, lost int) api.RoundTrips {
	r := api.RoundTrips{Sent: len(times) + lost, Lost: lost}
	if len(times) == 0 {
		return r
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for i := 1; i < len(times); i++ {
		r.Jitter += ms((times[i] - times[i-1]).Abs()) / float64(len(times)-1)
	}
	slices.Sort(times)
	r.Min, r.P50, r.P99, r.Max = ms(times[0]), ms(times[(len(times)-1)/2]), ms(times[(len(times)-1)*99/100]), ms(times[len(times)-1])
	return r
}

// meter measures the bandwidth one way, in bursts.
type meter struct {
	path    Path
	o       Options
	rtt     time.Duration
	request []byte
}

// run sends bursts, each with twice as much on its way as the one before while that makes it faster, then with the best, and
// tells the mean of the fastest half of those.
func (m meter) run(ctx context.Context, d time.Duration) (b api.Bandwidth, err error) {
	end, chunks, settled := time.Now().Add(d), 1, false
	var rates []float64
	for best := 0.0; len(rates) == 0 && b.Skipped < 8 || time.Now().Before(end); {
		if m.o.Busy != nil && m.o.Busy() {
			b.Skipped++
			if err := clock.Sleep(ctx, shortBurst); err != nil {
				return b, err
			}
			continue
		}
		rate, sent, took, err := m.burst(ctx, chunks)
		b.Sent += sent
		if err != nil {
			return b, err
		}
		switch {
		case settled:
			rates = append(rates, rate)
		case rate < best*1.1:
			settled, chunks, rates = true, max(chunks/2, 1), append(rates, best)
		case chunks == maxChunks || m.o.RateLimit > 0 && rate > 0.8*float64(m.o.RateLimit):
			settled, b.AtLeast, rates = true, true, append(rates, rate)
		case float64(chunks*chunkBytes)/rate > (maxQueue + m.rtt).Seconds():
			settled, rates = true, append(rates, rate)
		default:
			best, chunks = max(best, rate), chunks*2
		}
		if err := clock.Sleep(ctx, took); err != nil {
			return b, err
		}
		if !settled && !time.Now().Before(end) {
			b.AtLeast, rates = true, append(rates, best)
		}
	}
	b.BytesPerSecond, b.InFlight = fastest(rates), uint64(chunks*chunkBytes)
	return b, nil
}

// fastest is the mean of the faster half: what slows a burst down is other traffic and this machine, seldom the link.
func fastest(rates []float64) float64 {
	if len(rates) == 0 {
		return 0
	}
	slices.Sort(rates)
	rates = rates[len(rates)/2:]
	sum := 0.0
	for _, r := range rates {
		sum += r
	}
	return sum / float64(len(rates))
}

// burst keeps so many chunks on their way for a while. Its rate is that from the first answer to the last, so that neither the
// way there nor the way back counts.
func (m meter) burst(ctx context.Context, chunks int) (rate float64, sent uint64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience+shortBurst+6*m.rtt)
	defer cancel()
	began := time.Now()
	end := began.Add(max(shortBurst, 6*m.rtt))
	var mu sync.Mutex
	var wg sync.WaitGroup
	var first, last time.Time
	answers, asked := 0, 0
	one := func() (more bool) {
		mu.Lock()
		at := began
		if m.o.RateLimit > 0 {
			at = began.Add(time.Duration(float64(asked*chunkBytes) / float64(m.o.RateLimit) * float64(time.Second)))
		}
		asked++
		mu.Unlock()
		if at.After(end) || clock.Sleep(ctx, time.Until(at)) != nil {
			return false
		}
		_, failed := m.path(ctx, m.request)
		mu.Lock()
		defer mu.Unlock()
		if failed != nil {
			err = fmt.Errorf("measure bandwidth: %w", failed)
			return false
		}
		last = time.Now()
		if answers++; answers == 1 {
			first = last
		}
		return err == nil && last.Before(end)
	}
	for range chunks {
		wg.Go(func() {
			for one() {
			}
		})
	}
	wg.Wait()
	sent, took = uint64(answers*chunkBytes), time.Since(began)
	if answers > 1 && last.After(first) {
		return float64((answers-1)*chunkBytes) / last.Sub(first).Seconds(), sent, took, err
	}
	return float64(sent) / took.Seconds(), sent, took, err
}
