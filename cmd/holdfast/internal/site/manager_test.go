package site

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// serviceManager is the socket of a service manager with a watchdog of 400 ms.
func serviceManager(t *testing.T) *net.UnixConn {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "400000")
	t.Setenv("WATCHDOG_PID", "")
	return l
}

// hear reads words until one begins with want, and gives all that came before it.
func hear(t *testing.T, l *net.UnixConn, want string) (before []string) {
	t.Helper()
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("the service manager never heard %s, only %q: %v", want, before, err)
		}
		if strings.HasPrefix(string(buf[:n]), want) {
			return before
		}
		before = append(before, string(buf[:n]))
	}
}

func TestAServiceIsReadyWhenItsHealthIsAndAliveWithoutItsServer(t *testing.T) {
	l := serviceManager(t)
	cfg, err := config.Load("../../../../deploy/examples/site-w.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DataDir, cfg.NATS.Listen = t.TempDir(), ""
	cfg.NATS.Local = "nats://" + freeAddress(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- RunService(ctx, cfg, api.ServiceQuorum, Options{Logger: slog.New(slog.DiscardHandler)})
	}()
	hear(t, l, "STATUS=quorum: it has not begun")
	srv, err := natsd.Start(natsd.Config{Site: cfg.Site, Listen: strings.TrimPrefix(cfg.NATS.Local, "nats://"), StoreDir: filepath.Join(cfg.DataDir, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	before := hear(t, l, "READY=1")
	if before[len(before)-1] != "STATUS=serving" {
		t.Errorf("ready after %q", before)
	}
	hear(t, l, "WATCHDOG=1")
	srv.Stop()
	hear(t, l, "STATUS=quorum: the NATS server of its own site is not reached")
	hear(t, l, "WATCHDOG=1")
	cancel()
	hear(t, l, "STOPPING=1")
	<-ended
}

func TestAHungPartGivesNoSignOfLife(t *testing.T) {
	l := serviceManager(t)
	var hung atomic.Bool
	asked := make(chan struct{}, 64)
	health := telemetry.NewHealth("a", "x")
	health.Check("x", "serving", func() error { return nil })
	stop, err := startManager(t.Context(), &manager{report: health.Report, log: slog.New(slog.DiscardHandler), alive: func(ctx context.Context) error {
		if !hung.Load() {
			return nil
		}
		asked <- struct{}{}
		return errors.New("no answer")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	hear(t, l, "WATCHDOG=1")
	hung.Store(true)
	hear(t, l, "STATUS=does not answer itself: no answer")
	for range 3 {
		<-asked
	}
	hung.Store(false)
	for _, word := range hear(t, l, "STATUS=serving") {
		if word == "WATCHDOG=1" {
			t.Error("a sign of life while a part hung")
		}
	}
	hear(t, l, "WATCHDOG=1")
}

func TestANATSServerThatGreetsIsAlive(t *testing.T) {
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := srv.Answers(ctx); err != nil {
		t.Error(err)
	}
	srv.Stop()
	if err := srv.Answers(ctx); err == nil {
		t.Error("a server that was stopped is taken for alive")
	}
}
