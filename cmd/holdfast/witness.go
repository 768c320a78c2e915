package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// witnessCommand makes and runs a witness service, which is no site of any installation.
func witnessCommand() *cobra.Command {
	c := parent(&cobra.Command{Use: "witness", Short: "Make and run a witness that votes for many installations"})
	c.AddCommand(witnessInitCommand(), witnessRunCommand())
	return c
}

func witnessInitCommand() *cobra.Command {
	var dir, address string
	c := &cobra.Command{
		Use: "init", Short: "Make a witness' folder: key, certificate, configuration", Args: exactly(0, "no argument"),
		Long: "Make the folder of a witness. Give witness.pem to each installation that is to count on it (quorum.witness), and list each of them in\n" +
			"witness.yaml with a copy of its secrets/trust/ca.pem. Nothing that is exchanged is secret. See docs/operations/quorum.md.",
		Example: "  holdfast witness init --dir witness --address witness.example:7443",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "dir", "address"); err != nil {
				return err
			}
			host, _, err := net.SplitHostPort(address)
			if err != nil || host == "" {
				return fmt.Errorf("address %q: %w: want HOST:PORT, as the installations reach it", address, domain.ErrInvalid)
			}
			return witnessInit(cmd, dir, host, address)
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the folder to make")
	c.Flags().StringVar(&address, "address", "", "HOST:PORT at which the installations reach it")
	return c
}

func witnessInit(cmd *cobra.Command, dir, host, address string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make witness: %w", err)
	}
	cert, err := witness.Make(dir, []string{host})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("listen: %q\ndata_dir: state\ncertificate: %s\nkey: %s\nclusters: []\n"+
		"  # - {name: main, ca: main-ca.pem}                      # ca.pem of secrets/trust of one of its sites\n"+
		"  # - {name: other, ca: other-ca.pem, quota: {groups: 8, votes_per_second: 100, bytes_per_second: 128KiB, connections: 8}}\n", address, witness.CertificateFile, witness.KeyFile)
	path := filepath.Join(dir, "witness.yaml")
	if err := identity.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "made %s\nat each site of an installation that counts on it, with a copy of %s:\n\n"+
		"quorum:\n  model: node_and_share_majority\n  witness: {url: \"https://%s\", ca: %s}\n\nhere, in %s: its name and its ca.pem under clusters, then\n\n  holdfast witness run --config %s\n",
		dir, cert, address, witness.CertificateFile, path, path)
	return err
}

func witnessRunCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "run", Short: "Run a witness", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "config"); err != nil {
				return err
			}
			cfg, err := config.LoadWitness(file)
			if err != nil {
				return err
			}
			return site.RunWitness(cmd.Context(), cfg, site.Options{Logger: newLogger(config.Config{Log: cfg.Log}, cmd.ErrOrStderr())})
		},
	}
	c.Flags().StringVar(&file, "config", "", "the witness' configuration file")
	return c
}
