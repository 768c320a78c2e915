package site

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// serverProcess is the name under which a NATS server of its own process tells how it is.
const serverProcess = "nats"

// RunNATS runs only the NATS server of a site, the one that nats.listen describes, until ctx ends: for services that run as
// processes of their own on a machine without a NATS server. A lost server is started again by whoever started this; the
// services' connections come back by themselves.
func RunNATS(ctx context.Context, cfg config.Config, o Options) error {
	if cfg.NATS.Listen == "" {
		return fmt.Errorf("run nats of site %s: %w: nats.listen is not set: give the address the server is to listen on, or run a server of your own", cfg.Site, domain.ErrInvalid)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make the state folder of site %s: %w", cfg.Site, err)
	}
	srv, err := startNATS(cfg, o)
	if err != nil {
		return err
	}
	defer srv.Stop()
	o.Logger.Info("nats ready", "site", string(cfg.Site), "address", srv.Addr())
	health := telemetry.NewHealth(cfg.Site, serverProcess)
	health.Check(serverProcess, "listening", func() error { return nil }) // startNATS returns once clients can connect
	stop, err := startManager(ctx, &manager{report: health.Report, log: o.Logger, alive: srv.Answers})
	if err != nil {
		return err
	}
	defer stop()
	<-ctx.Done()
	return nil
}
