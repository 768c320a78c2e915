package witness_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

const childEnv = "HOLDFAST_WITNESS_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is a witness as a process of its own, until its standard input ends.
func child(dir string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, witness.CertificateFile), filepath.Join(dir, witness.KeyFile))
	if err != nil {
		return err
	}
	cfg := witness.Config{Dir: filepath.Join(dir, "state"), Certificate: cert}
	if memory := os.Getenv("HOLDFAST_WITNESS_MEMORY"); memory != "" {
		cfg.MirrorDir = memory
	}
	raw, err := os.ReadFile(filepath.Join(dir, "clusters.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &cfg.Clusters); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	return witness.Run(ctx, cfg, witness.Deps{Listener: ln, Logger: slog.New(slog.DiscardHandler)})
}

// Two hundred clusters of five groups renew as the default timing has it, half of the time alone, half beside one that floods.
func TestTwoHundredClustersOnOneWitness(t *testing.T) {
	span, err := time.ParseDuration(os.Getenv("HOLDFAST_WITNESS_BENCH"))
	if err != nil {
		t.Skip("SKIPPED: a measurement of minutes; task bench:witness runs it")
	}
	const clusters, groups = 200, 5
	timing := core.DefaultTiming()
	b := newBench(t, clusters)
	var clients []*witness.Client
	for i := range clusters {
		c := b.client(i, timing.Round/10)
		clients = append(clients, c)
		for g := range groups {
			ask(t, c, ballot(b.name(i), fmt.Sprint("g", g), core.Prepare, "a", 1, 0), core.OK)
			ask(t, c, ballot(b.name(i), fmt.Sprint("g", g), core.Accept, "a", 1, 1), core.OK)
		}
	}
	t.Logf("%d clusters of %d groups, a renewal each %s, gathered for %s", clusters, groups, timing.Renew, timing.Round/10)
	b.measure("alone", clients, groups, timing.Renew, span/2)
	stop := b.flood(clusters)
	b.measure("beside a flood", clients, groups, timing.Renew, span/2)
	sent, refused := stop()
	t.Logf("the flood: %d requests, %d refused by name", sent, refused)
	if refused == 0 {
		t.Error("the flood was never refused by name")
	}
	together := time.Now()
	var wg sync.WaitGroup
	for i, c := range clients {
		for g := range groups {
			wg.Go(func() { ask(t, c, ballot(b.name(i), fmt.Sprint("g", g), core.Update, "a", 1, 1e6), core.OK) })
		}
	}
	wg.Wait()
	t.Logf("%d durable votes at the same moment took %s", clusters*groups, time.Since(together).Round(time.Millisecond))
}

type bench struct {
	t     *testing.T
	cas   []authority
	at    witness.At
	child int // pid
}

func newBench(t *testing.T, n int) *bench {
	t.Helper()
	b := &bench{t: t}
	dir := t.TempDir()
	if _, err := witness.Make(dir, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	var list []witness.Cluster
	for i := range n + 1 { // the last is hostile
		ca := newAuthority(t, "CA of "+b.name(i))
		b.cas = append(b.cas, ca)
		list = append(list, witness.Cluster{Name: b.name(i), CA: ca.pem(), Quota: witness.DefaultQuota()})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "clusters.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	memory, err := os.MkdirTemp("/dev/shm", "holdfast-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, "HOLDFAST_WITNESS_MEMORY="+memory)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	b.child, b.at = cmd.Process.Pid, witness.At{URL: "https://" + strings.TrimSpace(line), CA: filepath.Join(dir, witness.CertificateFile)}
	return b
}

func (b *bench) name(i int) string { return fmt.Sprint("cluster-", i) }

func (b *bench) client(i int, window time.Duration) *witness.Client {
	b.t.Helper()
	cert := b.cas[i].issue(b.t, "a.quorum", x509.ExtKeyUsageClientAuth)
	c, err := witness.NewClient(b.t.Context(), b.at, func() (tls.Certificate, error) { return cert, nil }, 10*time.Second, window)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

var round atomic.Uint64

// measure renews every group of every cluster each interval, and tells how long that took and what the witness needed for it.
func (b *bench) measure(what string, clients []*witness.Client, groups int, interval, span time.Duration) {
	b.t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var failed atomic.Int32
	before, began := b.cpu(), time.Now()
	var wg sync.WaitGroup
	for i, c := range clients {
		for g := range groups {
			wg.Go(func() {
				time.Sleep(interval * time.Duration(i*groups+g) / time.Duration(len(clients)*groups)) // spread, as by chance
				for time.Since(began) < span {
					sent := time.Now()
					r, err := c.Ask(b.t.Context(), ballot(b.name(i), fmt.Sprint("g", g), core.Renew, "a", 1, 100+round.Add(1)))
					if err != nil || r.Verdict != core.OK {
						failed.Add(1)
					}
					d := time.Since(sent)
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
					time.Sleep(interval - d)
				}
			})
		}
	}
	wg.Wait()
	slices.Sort(took)
	p := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(100 * time.Microsecond) }
	b.t.Logf("%s, %s: %d renewals (%.0f a second), %d failed; p50 %s, p99 %s, max %s; witness: %.0f %% of a core, %d MiB resident", what, span, len(took),
		float64(len(took))/time.Since(began).Seconds(), failed.Load(), p(.5), p(.99), p(1), 100*(b.cpu()-before).Seconds()/time.Since(began).Seconds(), b.resident()>>20)
	if failed.Load() > 0 {
		b.t.Errorf("%s: %d renewals failed", what, failed.Load())
	}
}

// flood asks as fast as it goes, over more connections than it may have, for durable votes; stop ends it.
func (b *bench) flood(i int) (stop func() (sent, refused int32)) {
	var count, over atomic.Int32
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		c := b.client(i, 0)
		for range 8 {
			wg.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					_, err := c.Ask(b.t.Context(), ballot(b.name(i), "g0", core.Prepare, "a", n, 1))
					count.Add(1)
					if errors.Is(err, domain.ErrRefused) && strings.Contains(err.Error(), b.name(i)+" is over its quota") {
						over.Add(1)
					}
				}
			})
		}
	}
	return func() (int32, int32) {
		close(done)
		wg.Wait()
		return count.Load(), over.Load()
	}
}

// cpu is what the witness has used so far.
func (b *bench) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.child))
	if err != nil {
		b.t.Fatal(err)
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (b *bench) resident() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", b.child))
	if err != nil {
		b.t.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
