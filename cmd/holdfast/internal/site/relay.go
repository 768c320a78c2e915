package site

import (
	"context"
	"fmt"

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
		return err
	}
	defer r.Stop()
	<-ctx.Done()
	return nil
}

// startRelay starts a site's relay, in whatever process.
func startRelay(ctx context.Context, cfg config.Config, o Options, mon *monitor) (*relay.Server, error) {
	r, err := relay.Start(ctx, relay.Config{Site: cfg.Site, Listen: cfg.Relay.Listen, To: cfg.RelayTo(), PerPeer: cfg.Relay.ConnectionsPerPeer,
		Timing: relay.DefaultTiming(), Logger: o.Logger, Metrics: mon.registry.For(relayProcess)})
	if err != nil {
		return nil, err
	}
	mon.health.Check(relayProcess, "serving", func() error { return nil }) // Start returns once clients can connect
	o.Logger.Info("relay ready", "site", string(cfg.Site), "address", r.Addr(), "to", cfg.Relay.To)
	return r, nil
}
