package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/qemu"
)

// Options are the demo command's.
type Options struct {
	Scenario  string
	VM        string // embedded, qemu
	Processes bool
	Seed      uint64
	JSON      bool
	Dir       string // empty: a temporary folder
	Keep      bool   // keep the folder
	Verbose   bool
	OTLP      string // host:port of a collector that gets the traces; empty: none
}

// ErrFailed is a scenario whose checks did not all hold.
var ErrFailed = errors.New("not every check held")

// world is one installation and what watches it.
type world struct {
	opts    Options
	l       layout
	links   links
	launch  launcher
	con     *console
	tell    *teller
	rng     *rand.Rand
	spans   *tracetest.InMemoryExporter // nil with separate processes
	clients map[domain.GroupID]*client
	report  *Report

	stop     chan struct{} // closed to end the clients
	stopOnce sync.Once
	ended    sync.WaitGroup
}

type scenario struct {
	about string
	far   bool // with a third data site
	run   func(*world, context.Context) error
}

func scenarios() map[string]scenario {
	return map[string]scenario{
		"site-loss":     {about: "site a loses power; b takes over", run: (*world).siteLoss},
		"switchover":    {about: "a planned move from a to b", run: (*world).switchover},
		"failback":      {about: "site a is lost, comes back, is protected again, and takes its work home", run: (*world).failback},
		"partition":     {about: "site a is cut off but alive: it stops by itself before b starts", run: (*world).partition},
		"three-sites":   {about: "sync to b, async to c; site a is lost, c follows b, and a takes its work home", far: true, run: (*world).threeSites},
		"host-incident": {about: "a host of site a dies: no disaster, its VM starts on another host of a", run: (*world).hostIncident},
	}
}

// Scenarios lists the names of the scenarios, sorted.
func Scenarios() []string { return slices.Sorted(maps.Keys(scenarios())) }

// Run runs one scenario and prints its report. The error wraps ErrFailed when a check did not hold.
func Run(ctx context.Context, o Options, stdout, stderr io.Writer) (err error) {
	sc, ok := scenarios()[o.Scenario]
	if !ok {
		return fmt.Errorf("scenario %q: %w: use one of %s", o.Scenario, domain.ErrInvalid, strings.Join(Scenarios(), ", "))
	}
	if o.VM != "embedded" && o.VM != "qemu" {
		return fmt.Errorf("VM driver %q: %w: use embedded or qemu", o.VM, domain.ErrInvalid)
	}
	limit := 2 * time.Minute
	if o.VM == "qemu" {
		limit = 8 * time.Minute
		if err := (&qemu.Driver{}).Check(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	w, clean, err := newWorld(ctx, o, sc.far, stdout, stderr)
	if err != nil {
		return err
	}
	defer clean()
	w.tell.note("%s: %s (seed %d, files in %s)", o.Scenario, sc.about, o.Seed, w.l.dir)
	if err := w.play(ctx, sc); err != nil {
		w.report.check("the scenario ran to its end", false, "%v", err)
	}
	w.report.settle()
	if o.JSON {
		err = w.report.writeJSON(stdout)
	} else {
		err = w.report.writeText(stdout, w.tell.p)
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if !w.report.OK {
		err = fmt.Errorf("scenario %s: %w", o.Scenario, ErrFailed)
	}
	return err
}

// play runs the scenario, and ends it early when a part of the installation fails by itself.
func (w *world) play(ctx context.Context, sc scenario) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case err := <-w.launch.failed():
			cancel(err)
		case <-over:
		}
	}()
	if err := w.up(ctx); err != nil {
		return err
	}
	return sc.run(w, ctx)
}

func newWorld(ctx context.Context, o Options, far bool, stdout, stderr io.Writer) (*world, func(), error) {
	dir, remove, err := workDir(o)
	if err != nil {
		return nil, nil, err
	}
	progress := stdout
	if o.JSON {
		progress = stderr
	}
	l, err := newLayout(ctx, dir, far)
	if err != nil {
		remove()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l.otlp = o.OTLP
	w := &world{opts: o, l: l, rng: rand.New(rand.NewPCG(o.Seed, 1)), clients: map[domain.GroupID]*client{}, stop: make(chan struct{}),
		tell: &teller{w: progress, p: newPalette(progress), begin: time.Now()}, report: newReport(o)}
	clean := func() {
		w.stopClients()
		if w.launch != nil {
			w.launch.close()
		}
		if w.con != nil {
			w.con.mesh.Close()
		}
		cancel()
		remove()
	}
	if err := w.build(ctx, stderr); err != nil {
		clean()
		return nil, nil, err
	}
	return w, clean, nil
}

// build makes the network, the configuration, the launcher and the watchers; nothing runs yet.
func (w *world) build(ctx context.Context, stderr io.Writer) error {
	var err error
	if w.links, err = openLinks(ctx, w.l); err != nil {
		return err
	}
	configs, err := w.l.writeConfigs(w.opts.VM, w.links)
	if err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	if w.opts.Verbose {
		logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if w.opts.Processes {
		if w.launch, err = newProcesses(w.l); err != nil {
			return err
		}
	} else {
		w.spans = tracetest.NewInMemoryExporter()
		w.launch = newInProcess(configs, w.spans, logger)
	}
	w.con, err = newConsole(w.l, w.tell)
	if err != nil {
		return err
	}
	for _, s := range w.con.mesh.Sites() {
		go w.con.follow(ctx, s)
	}
	return nil
}

// powerOn starts a site and its hosts.
func (w *world) powerOn(ctx context.Context, s domain.SiteID) error {
	if err := w.launch.startSite(ctx, s); err != nil {
		return err
	}
	for _, h := range siteHosts[s] {
		if err := w.launch.startHost(ctx, s, h); err != nil {
			return err
		}
	}
	return nil
}

// up starts everything and waits until both groups serve at a and are protected at b.
func (w *world) up(ctx context.Context) error {
	for _, s := range w.l.sites() {
		if err := w.powerOn(ctx, s); err != nil {
			return err
		}
	}
	for i, wl := range workloads() {
		c := newClient(wl.name, w.l.ports.service, []string{w.l.dnsAddr(siteA), w.l.dnsAddr(siteB)}, w.opts.Seed+uint64(i))
		w.clients[wl.group] = c
		w.ended.Go(func() { c.run(ctx, w.stop) })
	}
	for _, wl := range workloads() {
		if _, err := w.clients[wl.group].await(ctx, func(a ack) bool { return a.Site == siteA }); err != nil {
			return err
		}
	}
	if err := w.protected(ctx, siteA, siteB); err != nil {
		return err
	}
	if w.l.far() {
		if _, err := w.farFollows(ctx, siteA, time.Time{}); err != nil {
			return err
		}
	}
	w.tell.good("all sites are up; %s (sync) and %s (async) serve at a and are protected at b", groupSync, groupAsync)
	return nil
}

func (w *world) stopClients() {
	w.stopOnce.Do(func() { close(w.stop) })
	w.ended.Wait()
}

// protected waits until a primary's target has caught up: in the in-sync set for the sync group, streaming for the other.
func (w *world) protected(ctx context.Context, primary, target domain.SiteID) error {
	for _, wl := range workloads() {
		for {
			st, err := w.con.replica(ctx, primary, wl.group)
			if err == nil && st.Role == domain.RolePrimary && targetReady(st, target, wl.mode) {
				break
			}
			if ctx.Err() != nil {
				last := fmt.Sprintf("%+v", st.Targets)
				if err != nil {
					last = err.Error() // told, not wrapped: what ended the wait is the cause
				}
				return fmt.Errorf("wait for group %s to be protected at site %s (last: %s): %w", wl.group, target, last, context.Cause(ctx))
			}
			wait(ctx, pollEvery)
		}
	}
	return nil
}
