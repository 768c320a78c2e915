package jaegertest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Env names the Jaeger binary; without it the one that task jaeger builds is used.
const Env = "HOLDFAST_JAEGER"

const settings = `service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces: {receivers: [otlp], processors: [], exporters: [jaeger_storage_exporter]}
  telemetry:
    metrics: {level: none}
    logs: {level: warn}
extensions:
  healthcheckv2: {use_v2: true, http: {endpoint: "%s"}}
  jaeger_query:
    storage: {traces: memory}
    http: {endpoint: "%s"}
    grpc: {endpoint: "%s"}
  jaeger_storage:
    backends:
      memory: {memory: {max_traces: 10000}}
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "%s"}
exporters:
  jaeger_storage_exporter: {trace_storage: memory}
`

// Start runs a Jaeger of the test's own until the test ends, and gives its query API and the address spans go to. Without a
// binary the test is skipped, in CI it fails.
func Start(tb testing.TB) (j *Jaeger, otlp string) {
	tb.Helper()
	bin := binary(tb)
	health, query, grpc, otlp := port(tb), port(tb), port(tb), port(tb)
	file := filepath.Join(tb.TempDir(), "jaeger.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, settings, health, query, grpc, otlp), 0o600); err != nil {
		tb.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(bin, "--config", file)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_SAMPLER=always_off") // of its own work
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start Jaeger: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("Jaeger said:\n%s", log.String())
		}
	})
	j = New("http://" + query)
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	var services struct{}
	for j.get(ctx, "/api/services", &services) != nil {
		if ctx.Err() != nil {
			tb.Fatalf("Jaeger does not answer on %s", query)
		}
		pause(ctx)
	}
	return j, otlp
}

// binary is the Jaeger to run.
func binary(tb testing.TB) string {
	tb.Helper()
	path := os.Getenv(Env)
	if path == "" {
		_, here, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(here), "../../../../.cache/jaeger")
		if built, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "images/bin/jaeger-*")); len(built) > 0 {
			path = built[0] // of the image of the compose files
		}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path
	}
	if os.Getenv("CI") != "" {
		tb.Fatalf("no Jaeger at %s: run task jaeger, or name the binary in %s", path, Env)
	}
	tb.Skipf("SKIPPED: no Jaeger at %s: run task jaeger, or name the binary in %s", path, Env)
	return ""
}

func port(tb testing.TB) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// pause waits before a collector is asked again: it tells nobody when a span has come.
func pause(ctx context.Context) {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const arrival = 15 * time.Second

// AwaitRun waits until a run's spans have come, and wants them in exactly one trace. Every service sends its own in batches: while the
// parent of one is missing, another batch is on its way. One that never comes is left to the checks of the trace.
func (j *Jaeger) AwaitRun(tb testing.TB, run string) Trace {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), arrival)
	defer cancel()
	var last Trace
	for {
		traces, err := j.ByRun(ctx, run)
		switch {
		case err == nil && len(traces) > 1:
			tb.Fatalf("run %s has %d traces, want one: %s and %s", run, len(traces), traces[0].ID, traces[1].ID)
		case err == nil && len(traces) == 1 && len(traces[0].phase("run")) > 0 && len(traces[0].orphans()) == 0:
			return traces[0]
		case ctx.Err() != nil && len(last.phase("run")) > 0:
			return last
		case ctx.Err() != nil && last.ID != "":
			tb.Fatalf("run %s: its own span has not come:\n%s", run, last.Tree())
		case ctx.Err() != nil:
			tb.Fatalf("run %s: no trace with the tag run within %s: %v", run, arrival, err)
		case err == nil && len(traces) == 1:
			last = traces[0]
		}
		pause(ctx)
	}
}

// Await asks until ok, for what comes a moment after a run's end, and tells whether it did.
func (j *Jaeger) Await(tb testing.TB, ok func(ctx context.Context) bool) bool {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), arrival)
	defer cancel()
	for !ok(ctx) {
		if ctx.Err() != nil {
			return false
		}
		pause(ctx)
	}
	return true
}
