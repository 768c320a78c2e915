package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// pump keeps 32 requests of n bytes in flight, count in all, without allocating.
func (c *client) pump(typ uint16, n, count int) {
	const depth = 32
	request := binary.BigEndian.AppendUint32(nil, magicRequest)
	request = append(request, 0, 0, 0, byte(typ))
	request = binary.BigEndian.AppendUint64(request, 1)
	request = binary.BigEndian.AppendUint64(request, 0)
	request = binary.BigEndian.AppendUint32(request, uint32(n))
	reply := simpleLen
	if typ == cmdWrite {
		request = append(request, make([]byte, n)...)
	} else {
		reply += n
	}
	burst := make([]byte, 0, depth*len(request))
	for range depth {
		burst = append(burst, request...)
	}
	answers := make([]byte, reply)
	for sent := 0; sent < count; sent += depth / 2 {
		k := depth / 2
		if sent == 0 {
			k = depth
		}
		if _, err := c.nc.Write(burst[:k*len(request)]); err != nil {
			c.t.Fatal(err)
		}
		for range depth / 2 {
			c.reply(answers)
		}
	}
	for range depth / 2 {
		c.reply(answers)
	}
}

func (c *client) reply(b []byte) {
	if _, err := io.ReadFull(c.r, b); err != nil || binary.BigEndian.Uint32(b[4:]) != 0 {
		c.t.Fatalf("reply %x: %v", b[:8], err)
	}
}

// quiet is a unit that keeps no record of what it was asked.
func quiet(b testing.TB) *bench {
	u := newMemUnit(1 << 20)
	u.silent = true
	return newBenchOn(b, Config{}, u)
}

// TestNothingIsAllocatedPerRequest counts what client and server allocate together for 3,200 requests of each kind. The
// collector may empty the pools at any time: less than one allocation in ten requests is none per request.
func TestNothingIsAllocatedPerRequest(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: the race detector makes pools forget")
	}
	b := quiet(t)
	for _, typ := range []uint16{cmdRead, cmdWrite} {
		for _, n := range []int{4096, 128 << 10} {
			c := b.open(false)
			c.pump(typ, n, 320) // warm
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c.pump(typ, n, 3200)
			runtime.ReadMemStats(&after)
			if made := after.Mallocs - before.Mallocs; made > 320 {
				t.Errorf("request %d of %d bytes: %d allocations for 3200 requests", typ, n, made)
			}
		}
	}
}

// BenchmarkRequests keeps 32 requests in flight on one connection over loopback, against a unit in memory: what the server and
// this client cost.
func BenchmarkRequests(b *testing.B) {
	for _, typ := range []uint16{cmdRead, cmdWrite} {
		for _, n := range []int{4096, 128 << 10} {
			b.Run(fmt.Sprintf("%s%dK", [...]string{"read", "write"}[typ], n>>10), func(b *testing.B) {
				c := quiet(b).open(false)
				_ = c.nc.SetDeadline(time.Time{})
				b.ReportAllocs()
				b.SetBytes(int64(n))
				b.ResetTimer()
				began := cpuTime(b)
				c.pump(typ, n, b.N)
				b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
