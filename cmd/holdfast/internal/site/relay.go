package site

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/relay"
)

// relayProcess is the name under which a relay tells how it is.
const relayProcess = "relay"

// RunRelay runs only the relay of a site until ctx ends. It holds no key and speaks to nobody but those whose bytes it carries;
// what it carried is connected again by whoever lost it, once it is started again.
func RunRelay(ctx context.Context, cfg config.Config, o Options) error {
	if cfg.Relay.Listen == "" {
		return fmt.Errorf("run relay of site %s: %w: relay.listen is not set: give the address where other sites connect to it, and the sites it leads to in relay.to", cfg.Site, domain.ErrInvalid)
	}
	mon, err := startMonitor(ctx, cfg, o, relayProcess, []service{{name: relayProcess}})
	if err != nil {
		return err
	}
	defer mon.stop()
	r, err := startRelay(ctx, cfg, o, mon)
	if err != nil {
		return fmt.Errorf("run relay: %w: %s", err, relayMend)
	}
	mon.health.Check(relayProcess, "serving", func() error { return nil }) // Start returns once clients can connect
	defer r.Stop()
	<-ctx.Done()
	return nil
}

const relayMend = "free the port, or set relay.listen to another"

// startRelay starts a site's relay, in whatever process.
func startRelay(ctx context.Context, cfg config.Config, o Options, mon *monitor) (*relay.Server, error) {
	r, err := relay.Start(ctx, relay.Config{Site: cfg.Site, Listen: cfg.Relay.Listen, To: cfg.RelayTo(), PerPeer: cfg.Relay.ConnectionsPerPeer,
		Timing: relay.DefaultTiming(), Logger: o.Logger, Metrics: mon.registry.For(relayProcess)})
	if err != nil {
		return nil, err
	}
	o.Logger.Info("relay ready", "site", string(cfg.Site), "address", r.Addr(), "to", cfg.Relay.To)
	return r, nil
}

// How long it is until a relay that could not listen tries again: twice as long each time.
const (
	relayFirst = time.Second
	relayMost  = 30 * time.Second
)

// keepRelay has a site's relay run beside its services until ctx ends or stop is called, which waits for its end. While it cannot listen,
// the site does without: others do not reach one another by it, and everything else goes on.
func keepRelay(ctx context.Context, cfg config.Config, o Options, mon *monitor) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var failed error
	mon.health.Note(relayProcess, "listening", func() error {
		mu.Lock()
		defer mu.Unlock()
		return failed
	})
	try := func() *relay.Server {
		r, err := startRelay(ctx, cfg, o, mon)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, relayMend)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil && ctx.Err() == nil && (failed == nil || err.Error() != failed.Error()) {
			o.Logger.Error("relay does not listen, so that nobody reaches another site by this one; it is tried again", "site", string(cfg.Site), "address", cfg.Relay.Listen, "error", err)
		}
		failed = err
		return r
	}
	r := try()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait := relayFirst; r == nil; wait = min(2*wait, relayMost) {
			if clock.Sleep(ctx, wait) != nil {
				return
			}
			r = try()
		}
		<-ctx.Done()
		r.Stop()
	}()
	return func() {
		cancel()
		<-done
	}
}
