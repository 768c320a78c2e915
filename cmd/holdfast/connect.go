package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// remote is how a command reaches an installation: by a site's configuration file.
type remote struct {
	file    string
	output  string
	timeout time.Duration
}

const configEnv = "HOLDFAST_CONFIG"

func (r *remote) flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&r.file, "config", os.Getenv(configEnv), "a site's configuration file, which knows every site's address (also in "+configEnv+")")
	f.StringVarP(&r.output, "output", "o", "text", "text or json")
	f.DurationVar(&r.timeout, "timeout", 10*time.Second, "how long to wait for answers")
}

// load reads the file.
func (r *remote) load() (config.Config, error) {
	if r.output != "text" && r.output != "json" {
		return config.Config{}, fmt.Errorf("--output %q: %w: use text or json", r.output, domain.ErrInvalid)
	}
	if r.file == "" {
		return config.Config{}, fmt.Errorf("no configuration: %w: give --config FILE, or set %s", domain.ErrInvalid, configEnv)
	}
	return config.Load(r.file)
}

// dial begins to connect to every site of the file. It waits for none.
func dial(cfg config.Config) (*bus.Mesh, error) {
	urls := map[domain.SiteID]string{}
	for _, s := range cfg.Sites {
		urls[s.ID] = s.NATS
	}
	var creds *identity.Credentials
	if cfg.Security.Secrets != "" {
		var err error
		if creds, err = identity.Open(cfg.Security.Secrets, access.Operator); err != nil {
			return nil, err
		}
	}
	return bus.Dial(bus.Config{Site: cfg.Site, Service: "cli", URLs: urls, Relays: cfg.Relays(), Logger: slog.New(slog.DiscardHandler), Credentials: creds})
}

// open reads the file and connects to every site. It waits for the file's own site only.
func (r *remote) open(ctx context.Context) (config.Config, *bus.Mesh, error) {
	cfg, err := r.load()
	if err != nil {
		return cfg, nil, err
	}
	mesh, err := dial(cfg)
	if err != nil {
		return cfg, nil, err
	}
	wctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if err := mesh.Local().AwaitConnected(wctx); err != nil {
		mesh.Close()
		return cfg, nil, fmt.Errorf("%w: is site %s running?", err, cfg.Site)
	}
	return cfg, mesh, nil
}

// atSite is the connection to a site, this file's own when none is named.
func atSite(mesh *bus.Mesh, site string) (*bus.Conn, error) {
	if site == "" {
		return mesh.Local(), nil
	}
	c, err := mesh.Conn(domain.SiteID(site))
	if err != nil {
		return nil, fmt.Errorf("site %q: %w: use one of %v", site, domain.ErrInvalid, mesh.Sites())
	}
	return c, nil
}

// connected connects to a site for one question, and closes.
func connected[Resp any](cmd *cobra.Command, r *remote, site string, question func(*bus.Conn) (Resp, error)) (Resp, error) {
	var none Resp
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return none, err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, site)
	if err != nil {
		return none, err
	}
	return question(conn)
}

// askFailover is one question to a site's failover service.
func askFailover[Resp, Req any](cmd *cobra.Command, r *remote, site, verb string, req Req) (Resp, error) {
	return connected(cmd, r, site, func(conn *bus.Conn) (Resp, error) {
		return bus.Call[Resp](cmd.Context(), conn, api.ServiceFailover, verb, req)
	})
}

// askReplicator is one question to a site's replicator, which has the remote's timeout to answer.
func askReplicator[Resp, Req any](cmd *cobra.Command, r *remote, site, verb string, req Req) (Resp, error) {
	return connected(cmd, r, site, func(conn *bus.Conn) (Resp, error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
		defer cancel()
		return bus.Call[Resp](ctx, conn, api.ServiceReplicator, verb, req)
	})
}

// sayWho fills in who asks, unless a person said it, and from which machine: both are kept in the audit.
func sayWho(by, host *string) {
	if name, err := os.Hostname(); err == nil {
		*host = name
	}
	if u, err := user.Current(); err == nil && *by == "" {
		*by = u.Username
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s takes %s, got %d arguments: %w", c.CommandPath(), what, len(args), domain.ErrInvalid)
		}
		return nil
	}
}

// parent makes a command that only holds others: alone it shows its help, with a word that is none of them it is a mistake.
func parent(c *cobra.Command) *cobra.Command {
	c.Args = onlyCommands
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.SuggestionsMinimumDistance = 2
	return c
}

// onlyCommands refuses a word that is none of a command's own commands, and says which is near.
func onlyCommands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	mend := "see " + c.CommandPath() + " --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		mend = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("%s has no command %q: %w: %s", c.CommandPath(), args[0], domain.ErrInvalid, mend)
}

// need is a usage error that names the flags which were left out.
func need(c *cobra.Command, names ...string) error {
	for _, n := range names {
		if f := c.Flag(n); f == nil || f.Value.String() == "" {
			return fmt.Errorf("%s needs --%s (%s): %w", c.CommandPath(), n, f.Usage, domain.ErrInvalid)
		}
	}
	return nil
}
