package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// wholeSite is what all services in one process are called among metrics.ports.
const wholeSite = "site"

func healthcheckCommand() *cobra.Command {
	var file string
	var timeout time.Duration
	c := &cobra.Command{
		Use: "healthcheck [SERVICE]", Short: "Ask a service of this machine whether it is well: exit 0 or 1",
		Long: "Ask a service's own /healthz, at metrics.listen or the service's address in metrics.ports. Without SERVICE it is the whole\n" +
			"site in one process. A VM host's agent is host-ID. Made for a container's health check.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "config"); err != nil {
				return err
			}
			service := wholeSite
			if len(args) == 1 {
				service = args[0]
			}
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			r, err := askHealth(cmd.Context(), cfg, service, timeout)
			if err != nil {
				return err
			}
			if _, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of site %s is well: %d checks\n", r.Service, r.Site, len(r.Checks)); err != nil {
				return err
			}
			for _, text := range failedChecks(r) {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), "but "+text); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", os.Getenv(configEnv), "the site's configuration file (also in "+configEnv+")")
	c.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for the answer")
	return c
}

// askHealth asks one process. The error says what is not well, or why nobody answered.
func askHealth(ctx context.Context, cfg config.Config, service string, timeout time.Duration) (telemetry.HealthReport, error) {
	var r telemetry.HealthReport
	known := append(site.Services(), wholeSite, "nats", "relay")
	if _, own := cfg.Metrics.Ports[service]; !own && !slices.Contains(known, service) && !strings.HasPrefix(service, "host-") {
		return r, fmt.Errorf("ask the health of %q: %w: no such service: use %s or host-ID", service, domain.ErrInvalid, strings.Join(known, ", "))
	}
	address := cfg.Metrics.Address(service)
	if address == "" {
		return r, fmt.Errorf("ask the health of %s of site %s: %w: metrics.listen is not set in the configuration: set it to host:port", service, cfg.Site, domain.ErrInvalid)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return r, fmt.Errorf("ask the health of %s of site %s: metrics.listen %q: %w: want host:port", service, cfg.Site, address, domain.ErrInvalid)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return readHealth(ctx, cfg.Site, service, "http://"+net.JoinHostPort(host, port)+"/healthz")
}

func readHealth(ctx context.Context, id domain.SiteID, service, url string) (telemetry.HealthReport, error) {
	var r telemetry.HealthReport
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return r, fmt.Errorf("ask the health of %s of site %s: %w", service, id, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, fmt.Errorf("ask the health of %s of site %s: nobody answers at %s: %w: %s: is it running?", service, id, url, domain.ErrUnavailable, err.Error())
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(&r); err != nil {
		return r, fmt.Errorf("ask the health of %s of site %s: %s answered %s, and not as holdfast does: is the port another program's?", service, id, url, res.Status)
	}
	if r.Site != "" && r.Site != id {
		return r, fmt.Errorf("ask the health of %s of site %s: %s is answered by site %s: give each site on this machine a metrics.listen of its own", service, id, url, r.Site)
	}
	if r.OK {
		return r, nil
	}
	bad := failedChecks(r)
	if len(bad) == 0 {
		bad = []string{"it is still starting"}
	}
	return r, fmt.Errorf("%s of site %s is not well: %s", service, id, strings.Join(bad, "; "))
}

func failedChecks(r telemetry.HealthReport) (bad []string) {
	for _, c := range r.Checks {
		if !c.OK {
			bad = append(bad, fmt.Sprintf("%s: %s: %s", c.Service, c.Name, c.Reason))
		}
	}
	return bad
}
