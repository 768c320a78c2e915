package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/serve"
)

// volumeCommand is `holdfast volume`: volumes outside of any cluster.
func volumeCommand() *cobra.Command {
	c := parent(&cobra.Command{Use: "volume", Short: "Work with single volumes and pools of them, without a cluster"})
	c.AddCommand(volumeServeCommand())
	c.AddCommand(poolCommands()...)
	return c
}

func volumeServeCommand() *cobra.Command {
	var o serve.Options
	c := &cobra.Command{
		Use:   "serve FILE | serve --pool DIR",
		Short: "Serve one file, or a pool of volumes, over iSCSI until stopped",
		Long: "Serve one file or block device as an iSCSI LUN. The first line on standard output is the unit's URL, printed when initiators can\n" +
			"log in. SIGTERM ends it: sessions are dropped, what is in flight is waited for, and all is made durable.\n" +
			"The volume is a removable medium; give --removable=false to hosts that want a fixed disk, as Windows does.\n\n" +
			"With --pool every volume of the pool is a target of its own, a fixed disk; the first line is the portal's URL, then comes one line for each\n" +
			"volume. The other volume commands work on the pool meanwhile.",
		Example: "  holdfast volume serve disk.img --size 1GiB --listen 127.0.0.1:3260 --chap vm1:/etc/holdfast/vm1.secret\n" +
			"  holdfast volume serve disk.img --size 1GiB --nbd unix:/run/disk.sock\n" +
			"  holdfast volume serve --pool /srv/volumes --listen 127.0.0.1:3260",
		Args: func(c *cobra.Command, args []string) error {
			if want := 1; len(args) != want && (o.Pool == "" || len(args) != 0) {
				return fmt.Errorf("volume serve takes one FILE, or --pool DIR, got %d arguments: %w", len(args), domain.ErrInvalid)
			}
			if o.Pool != "" && c.Flags().Changed("durability") {
				return fmt.Errorf("--durability is set for each volume of a pool by `holdfast volume create`: %w", domain.ErrInvalid)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.File = args[0]
			}
			if o.Pool != "" {
				o.Durability = ""
			}
			return serve.Run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	nbdFlags(c, &o.NBD)
	f.StringVar(&o.Pool, "pool", "", "a folder of volumes, made when it is not there, to serve instead of FILE")
	f.StringVar(&o.Size, "size", "", "size of the volume with its unit, as in 1GiB; needed to create FILE, checked when it is there")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:3260", "host:port to listen on; port 0 takes a free one")
	f.StringVar(&o.Durability, "durability", "cached", "cached (durable on flush, as disks do) or strict (every write durable when it completes)")
	f.StringVar(&o.IO, "io", "cached", "cached, or direct (past the page cache, for volumes larger than the memory)")
	f.StringVar(&o.SanitizeRate, "sanitize-rate", "100MiB", "how much a second an initiator's SANITIZE writes at most, so that others get at the disk, or none")
	f.StringVar(&o.CHAP, "chap", "", "USER:FILE; FILE holds the secret (12 bytes or more, mode 0600)")
	f.BoolVar(&o.Removable, "removable", true, "a removable medium, which initiators may eject and load; --removable=false is a fixed disk")
	f.StringVar(&o.DiscoveryCHAP, "discovery-chap", "", "USER:FILE that a discovery session needs; without it what --chap says")
	f.BoolVar(&o.Verbose, "verbose", false, "log each session on standard error")
	return c
}

func nbdFlags(c *cobra.Command, o *serve.NBD) {
	f := c.Flags()
	f.StringVar(&o.Listen, "nbd", "", "serve the file by NBD too, at host:port or unix:PATH; the URI is the second line on standard output")
	f.StringVar(&o.TLS.Cert, "nbd-tls-cert", "", "PEM file of the NBD server's certificate; NBD clients must use TLS then")
	f.StringVar(&o.TLS.Key, "nbd-tls-key", "", "PEM file of its key (mode 0600)")
	f.StringVar(&o.TLS.CA, "nbd-tls-ca", "", "PEM file of the authority whose certificates let NBD clients in")
	f.BoolVar(&o.Insecure, "nbd-insecure", false, "let NBD clients of other machines in that prove nothing; with a certificate, make TLS optional")
}
