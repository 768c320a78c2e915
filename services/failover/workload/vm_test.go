package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// memory is a disk that loses power after a number of writes, tearing the last one.
type memory struct {
	mu   sync.Mutex
	b    []byte
	bs   int
	left *atomic.Int64 // writes until the power goes, shared by the disks of a machine; nil: never
	tear int
}

var errPower = errors.New("no power")

func newMemory(size int) *memory { return &memory{b: make([]byte, size), bs: 512} }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) WriteDurable(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left != nil {
		if left := m.left.Add(-1); left < 0 {
			if left == -1 {
				copy(m.b[off:], p[:m.tear])
			}
			return errPower
		}
	}
	copy(m.b[off:], p)
	return nil
}

func (m *memory) Size() int64    { return int64(len(m.b)) }
func (m *memory) BlockSize() int { return m.bs }

// book is a ledger in memory.
type book struct {
	mu    sync.Mutex
	lines []ledger.Line
}

func (b *book) add(l ledger.Line) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, l)
	return nil
}

func (b *book) all() []ledger.Line {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]ledger.Line(nil), b.lines...)
}

func specOf(site domain.SiteID, counter int) Spec {
	return Spec{VM: "erp-1", Group: "erp", Site: site, Host: "h1", Instance: NewInstance(), Epoch: domain.NewEpoch(0, counter, 1)}
}

func boot(t *testing.T, spec Spec, deps Deps, disks ...Disk) *VM {
	t.Helper()
	v, err := Boot(t.Context(), spec, disks, deps)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func appendN(t *testing.T, v *VM, n int) {
	t.Helper()
	for i := range n {
		if _, err := v.Append(t.Context(), fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLogGoesOnAcrossBoots(t *testing.T) {
	d := newMemory(1 << 20)
	b := &book{}
	v := boot(t, specOf("a", 1), Deps{Ledger: b.add}, d)
	appendN(t, v, 5)
	v = boot(t, specOf("b", 2), Deps{Ledger: b.add}, d)
	if s := v.Status(); s.LastSeq != 5 || s.FirstSeq != 6 {
		t.Fatalf("%+v", s)
	}
	appendN(t, v, 3)
	v.Halt()
	if err := v.Stopped("asked"); err != nil {
		t.Fatal(err)
	}
	r, err := applog.Scan(d)
	if err != nil || !r.PrefixOK || r.LastSeq != 8 || len(r.Spans) != 2 || r.Header.Generation != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	lines := b.all()
	found := map[uint64]string{}
	if _, err := applog.ScanWith(d, applog.Options{Each: func(r applog.Record, h applog.Hash) { found[r.Seq] = h.String() }}); err != nil {
		t.Fatal(err)
	}
	if lost := ledger.Lost(lines, found); len(lines) != 11 || len(lost) != 0 || len(ledger.ServedTwice(lines)) != 0 {
		t.Fatalf("%d lines, lost %v", len(lines), lost)
	}
	if last := lines[10]; last.Kind != ledger.KindStop || last.Seq != 8 || last.Reason != "asked" {
		t.Fatalf("%+v", last)
	}
}

// TestAnyPowerCutLeavesAPrefixOverAllVolumes cuts the power after every number of writes, boots, and cuts again.
func TestAnyPowerCutLeavesAPrefixOverAllVolumes(t *testing.T) {
	for volumes := 1; volumes <= 3; volumes++ {
		for cut := range int64(40) {
			for _, tear := range []int{0, 1, 300, 512} {
				left := &atomic.Int64{}
				disks, mems := make([]Disk, volumes), make([]*memory, volumes)
				for i := range disks {
					mems[i] = newMemory(64 << 10)
					mems[i].left, mems[i].tear, disks[i] = left, tear, mems[i]
				}
				acked := uint64(0)
				for round := range 3 {
					left.Store(cut)
					v, err := Boot(t.Context(), specOf("a", round+1), disks, Deps{})
					if errors.Is(err, errPower) {
						continue
					}
					if err != nil {
						t.Fatalf("%d volumes, cut %d, tear %d, round %d: %v", volumes, cut, tear, round, err)
					}
					for range 20 {
						ack, err := v.Append(t.Context(), []byte("x"))
						if err != nil {
							break
						}
						if ack.Seq <= acked {
							t.Fatalf("sequence %d acknowledged after %d", ack.Seq, acked)
						}
						acked = ack.Seq
					}
					checkVolumes(t, mems, acked)
				}
			}
		}
	}
}

func checkVolumes(t *testing.T, mems []*memory, acked uint64) {
	t.Helper()
	reports := make([]applog.Report, len(mems))
	for i, m := range mems {
		var err error
		if reports[i], err = applog.Scan(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := applog.CheckGroup(reports); err != nil {
		t.Fatal(err)
	}
	if last := reports[len(reports)-1].LastSeq; last < acked {
		t.Fatalf("acknowledged %d, found %d", acked, last)
	}
}

func TestBootRefusesWhatItMustNotTouch(t *testing.T) {
	two := func(t *testing.T) (*memory, *memory) {
		a, b := newMemory(64<<10), newMemory(64<<10)
		appendN(t, boot(t, specOf("a", 2), Deps{}, a, b), 5)
		return a, b
	}
	record := func(m *memory, seq int) []byte { return m.b[applog.DataOffset+(seq-1)*512:][:512] }
	for name, c := range map[string]struct {
		change func(a, b *memory, s *Spec)
		want   error
	}{
		"a hole":            {func(a, _ *memory, _ *Spec) { clear(record(a, 3)) }, ErrBrokenLog},
		"second ahead":      {func(a, _ *memory, _ *Spec) { clear(record(a, 5)) }, ErrBrokenLog},
		"second far back":   {func(_, b *memory, _ *Spec) { clear(record(b, 5)); clear(record(b, 4)) }, ErrBrokenLog},
		"lower epoch":       {func(_, _ *memory, s *Spec) { s.Epoch = domain.NewEpoch(0, 1, 9) }, domain.ErrStaleEpoch},
		"another VM":        {func(_, _ *memory, s *Spec) { s.VM = "other" }, ErrBrokenLog},
		"something else":    {func(a, _ *memory, _ *Spec) { clear(a.b[:8192]); copy(a.b, "ext4") }, ErrBrokenLog},
		"volumes swapped":   {func(a, b *memory, _ *Spec) { a.b, b.b = b.b, a.b }, ErrBrokenLog},
		"first wiped":       {func(a, _ *memory, _ *Spec) { clear(a.b) }, ErrBrokenLog},
		"larger block":      {func(a, _ *memory, _ *Spec) { a.bs = 4096 }, ErrBrokenLog},
		"no room for a log": {func(a, b *memory, _ *Spec) { a.b = make([]byte, 4096); clear(b.b) }, domain.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := two(t)
			s := specOf("b", 3)
			c.change(a, b, &s)
			before := [2][]byte{bytes.Clone(a.b), bytes.Clone(b.b)}
			if _, err := Boot(t.Context(), s, []Disk{a, b}, Deps{}); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if !bytes.Equal(before[0], a.b) || !bytes.Equal(before[1], b.b) {
				t.Fatal("the disks were written to")
			}
		})
	}
}

func TestClosedGateAcknowledgesNothing(t *testing.T) {
	var closed atomic.Bool
	gate := func() error {
		if closed.Load() {
			return domain.ErrNoLease
		}
		return nil
	}
	b := &book{}
	// The gate closes while the write is on its way.
	d := &closing{memory: newMemory(64 << 10)}
	v := boot(t, specOf("a", 1), Deps{Gate: gate, Ledger: b.add}, d)
	d.then = func() { closed.Store(true) }
	if _, err := v.Append(t.Context(), nil); !errors.Is(err, domain.ErrNoLease) {
		t.Fatal(err)
	}
	if lines := b.all(); len(lines) != 1 {
		t.Fatalf("acknowledged: %+v", lines)
	}
	if _, err := v.Append(t.Context(), nil); !errors.Is(err, domain.ErrNoLease) {
		t.Fatal(err)
	}
	if _, err := Boot(t.Context(), specOf("a", 1), []Disk{d}, Deps{Gate: gate}); !errors.Is(err, domain.ErrNoLease) {
		t.Fatal("booted without a lease", err)
	}
}

type closing struct {
	*memory
	then func()
}

func (c *closing) WriteDurable(ctx context.Context, p []byte, off int64) error {
	if c.then != nil {
		c.then()
	}
	return c.memory.WriteDurable(ctx, p, off)
}

func TestFullLogSaysSo(t *testing.T) {
	d := newMemory(applog.DataOffset + 3*512)
	v := boot(t, specOf("a", 1), Deps{}, d)
	appendN(t, v, 3)
	if _, err := v.Append(t.Context(), nil); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if v.Err() != nil {
		t.Fatal("a full log is no failure of the VM")
	}
	if v = boot(t, specOf("a", 1), Deps{}, d); v.Status().LastSeq != 3 {
		t.Fatal("a full log does not boot")
	}
}

// server runs a VM's HTTP side and returns its base URL.
func server(t *testing.T, ctx context.Context, v *VM, stop chan struct{}) (string, <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- v.Serve(ctx, ln, stop, func() time.Duration { return time.Second }) }()
	return "http://" + ln.Addr().String(), done
}

func post(t *testing.T, url, body string) (Ack, int) {
	t.Helper()
	res, err := http.Post(url+"/append", "text/plain", strings.NewReader(body))
	if err != nil {
		return Ack{}, 0
	}
	defer res.Body.Close()
	var a Ack
	if res.StatusCode == http.StatusOK {
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
			t.Error(err)
		}
	}
	return a, res.StatusCode
}

func TestServesOverHTTP(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tp := trace.NewTracerProvider(trace.WithSyncer(spans))
	v := boot(t, specOf("a", 1), Deps{Tracer: tp.Tracer("test")}, newMemory(1<<20), newMemory(1<<20))
	stop := make(chan struct{})
	url, done := server(t, t.Context(), v, stop)
	var wg sync.WaitGroup
	seen := make([]atomic.Bool, 101)
	for range 10 {
		wg.Go(func() {
			for range 10 {
				a, code := post(t, url, "hello")
				if code != 200 || seen[a.Seq].Swap(true) || a.VM != "erp-1" || a.Site != "a" || a.ClockNS == 0 {
					t.Errorf("%d %+v", code, a)
				}
			}
		})
	}
	wg.Wait()
	if _, code := post(t, url, strings.Repeat("x", 1000)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large payload: %d", code)
	}
	get := func(path string, to any) int {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if to != nil && res.StatusCode == 200 {
			if err := json.Unmarshal(body, to); err != nil {
				t.Fatal(err)
			}
		}
		return res.StatusCode
	}
	var page struct{ Records []Digest }
	if code := get("/log?from=91&limit=5", &page); code != 200 || len(page.Records) != 5 || page.Records[0].Seq != 91 {
		t.Fatalf("%d %+v", code, page)
	}
	var st Status
	if code := get("/status", &st); code != 200 || st.LastSeq != 100 || st.FirstSeq != 1 {
		t.Fatalf("%d %+v", code, st)
	}
	if code := get("/log?from=x", nil); code != 400 {
		t.Fatal(code)
	}
	if code := get("/healthz", nil); code != 200 {
		t.Fatal(code)
	}
	last := spans.GetSpans()[len(spans.GetSpans())-1]
	if last.Parent.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || last.Name != "vm log" {
		t.Errorf("span %s of trace %s", last.Name, last.Parent.TraceID())
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPowerLossEndsAtOnce(t *testing.T) {
	b := &book{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v, err := Boot(ctx, specOf("a", 1), []Disk{newMemory(8 << 20)}, Deps{Ledger: b.add})
	if err != nil {
		t.Fatal(err)
	}
	url, done := server(t, ctx, v, nil)
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				if _, code := post(t, url, ""); code != 200 {
					return
				}
				if answered.Add(1) == 50 {
					cancel()
				}
			}
		})
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	v.Halt()
	n := len(b.all())
	wg.Wait()
	if len(b.all()) != n {
		t.Fatal("a halted VM acknowledged")
	}
	if int64(n-1) < answered.Load() {
		t.Fatalf("%d answers, %d lines", answered.Load(), n-1)
	}
}

func TestDiskErrorEndsTheVM(t *testing.T) {
	d := newMemory(1 << 20)
	d.left = &atomic.Int64{}
	d.left.Store(3)
	v := boot(t, specOf("a", 1), Deps{}, d)
	url, done := server(t, t.Context(), v, nil)
	for range 2 {
		if _, code := post(t, url, ""); code != 200 {
			t.Fatal(code)
		}
	}
	post(t, url, "")
	if err := <-done; !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	if v.Status().Error == "" {
		t.Fatal("the status hides the failure")
	}
	if _, err := v.Append(t.Context(), nil); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
}
