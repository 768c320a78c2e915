package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func siteCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "site", Short: "Run one site with an embedded NATS server, or make and keep a site's folder", Args: onlyCommands, SuggestionsMinimumDistance: 2,
		Long: "Run one site's services and its embedded NATS server until stopped. Stopping is losing power: nothing is handed over.\n" +
			"For a planned stop move the groups away first: holdfast site drain SITE.",
		RunE: running(&file, site.Run),
	}
	c.Flags().StringVar(&file, "config", "", "the site's configuration file")
	c.AddCommand(siteFolderCommands()...)
	return c
}

func hostCommand() *cobra.Command {
	var file, id string
	c := &cobra.Command{
		Use: "host", Short: "Run the agent of one VM host whose configuration says separate: true", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "host"); err != nil {
				return err
			}
			return running(&file, func(ctx context.Context, cfg config.Config, o site.Options) error {
				return site.RunHost(ctx, cfg, domain.HostID(id), o)
			})(cmd, args)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the site's configuration file")
	c.Flags().StringVar(&id, "host", "", "the host's id")
	return c
}

// serviceCommands run the services of a site as processes of their own, beside a NATS server that runs elsewhere.
func serviceCommands() []*cobra.Command {
	var out []*cobra.Command
	for _, name := range site.Services() {
		var file string
		c := &cobra.Command{
			Use: name, Short: "Run the " + name + " service of a site as a process of its own", Args: exactly(0, "no argument"), GroupID: "services",
			RunE: running(&file, func(ctx context.Context, cfg config.Config, o site.Options) error {
				return site.RunService(ctx, cfg, name, o)
			}),
		}
		c.Flags().StringVar(&file, "config", os.Getenv(configEnv), "the site's configuration file (also in "+configEnv+")")
		switch name {
		case api.ServiceQuorum:
			c.Args, c.SuggestionsMinimumDistance = onlyCommands, 2
			c.AddCommand(quorumCheckCommand(), quorumForceCommand(), quorumApproveCommand(), quorumPreventCommand())
		case api.ServiceHealth:
			c.Args, c.SuggestionsMinimumDistance = onlyCommands, 2
			c.AddCommand(healthCommands()...)
		}
		out = append(out, c)
	}
	return append(out,
		// where no other server is at hand that the services can stand beside
		partCommand("nats", "Run only the NATS server of a site, for services that are processes of their own", site.RunNATS),
		partCommand("relay", "Run only the relay of a site, by which others reach sites they have no way to", site.RunRelay))
}

// partCommand runs a part of a site that is no service.
func partCommand(name, short string, run func(context.Context, config.Config, site.Options) error) *cobra.Command {
	var file string
	c := &cobra.Command{Use: name, Short: short, Args: exactly(0, "no argument"), GroupID: "services", RunE: running(&file, run)}
	c.Flags().StringVar(&file, "config", os.Getenv(configEnv), "the site's configuration file (also in "+configEnv+")")
	return c
}

// running loads the configuration that --config names and runs a part of its site until it is stopped.
func running(file *string, run func(context.Context, config.Config, site.Options) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := need(cmd, "config"); err != nil {
			return err
		}
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		return run(cmd.Context(), cfg, site.Options{Logger: newLogger(cfg, cmd.ErrOrStderr())})
	}
}

func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Log.Level)) // validated
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func configCommand() *cobra.Command {
	c := parent(&cobra.Command{Use: "config", Short: "Work with configuration files"})
	c.AddCommand(&cobra.Command{
		Use: "validate FILE", Short: "Check a site's configuration file", Args: exactly(1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			if err := checkSecrets(cfg); err != nil {
				return fmt.Errorf("%s: iscsi.chap: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: valid: site %s (%s) of %d sites, %d groups, %d plans%s\n",
				args[0], cfg.Site, cfg.Self().Role, len(cfg.Sites), len(cfg.Groups), len(cfg.Plans), waysOf(cfg))
			return err
		},
	})
	return c
}

// waysOf tells which sites are reached by another's relay, and where this site's relay leads.
func waysOf(cfg config.Config) string {
	text := ""
	for _, s := range cfg.Sites {
		if s.Via != "" {
			text += fmt.Sprintf(", reaches %s via %s", s.ID, s.Via)
		}
	}
	for i, to := range cfg.Relay.To {
		text += map[bool]string{true: ", relays to ", false: " and "}[i == 0] + string(to)
	}
	return text
}

// checkSecrets holds the CHAP secrets to their rules where they can be seen: a container of another service, or another
// user, cannot.
func checkSecrets(cfg config.Config) error {
	c := cfg.ISCSI.CHAP
	_, err := chap.Read(chap.Settings(c))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if _, folder := os.Stat(filepath.Dir(c.SecretFile)); folder != nil && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
