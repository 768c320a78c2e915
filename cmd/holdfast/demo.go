package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	var output string
	c := &cobra.Command{
		Use: "demo", Short: "Run three sites on this machine, break something, and prove what was kept", Args: exactly(0, "flags only"),
		Long: "Run two data sites and a witness on this machine, with a workload on their disks and a network between them that can be\n" +
			"cut; play a scenario; and report what was kept and how long it took. Needs nothing but this binary.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: %w: use text or json", output, domain.ErrInvalid)
			}
			o.JSON = output == "json"
			if !cmd.Flags().Changed("seed") {
				o.Seed = rand.Uint64() >> 12
			}
			return demo.Run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.StringVar(&o.Scenario, "scenario", "site-loss", strings.Join(demo.Scenarios(), ", "))
	f.StringVar(&o.VM, "vm", "embedded", "embedded (a small real workload in this process) or qemu (a Linux guest; needs QEMU)")
	f.BoolVar(&o.Processes, "processes", false, "run each site and host as processes of their own; kill -9 is then the disaster")
	f.Uint64Var(&o.Seed, "seed", 0, "chooses when the fault strikes; by default at random, and reported")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&o.Dir, "dir", "", "an empty folder for the sites' files; by default a temporary one")
	f.BoolVar(&o.Keep, "keep", false, "keep the files")
	f.StringVar(&o.OTLP, "otlp", "", "host:port of an OTLP/gRPC collector, as Jaeger's 4317, that gets the traces")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "the services' own logs on standard error")
	return c
}
