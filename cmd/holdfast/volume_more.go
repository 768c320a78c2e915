package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/opstats"
	"github.com/holdfast-dr/holdfast/services/replicator/pool"
)

// limitFlags are a volume's limits as they were given.
type limitFlags struct{ iops, bandwidth string }

func (l *limitFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&l.iops, "iops", "", "most reads and writes a second; none takes the limit away")
	c.Flags().StringVar(&l.bandwidth, "bandwidth", "", "most bytes a second, with the unit, as in 50MiB; none takes the limit away")
}

// put takes the limits that were given.
func (l *limitFlags) put(c *cobra.Command, r *pool.Request) error {
	for name, f := range map[string]struct {
		text string
		to   **int64
		read func(string) (int64, error)
	}{
		"iops":      {l.iops, &r.IOPS, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }},
		"bandwidth": {l.bandwidth, &r.Bandwidth, func(s string) (int64, error) { n, err := config.ParseSize(s); return int64(n), err }},
	} {
		if !c.Flags().Changed(name) {
			continue
		}
		var n int64
		if f.text != "none" && f.text != "0" {
			var err error
			if n, err = f.read(f.text); err != nil || n < 0 {
				return fmt.Errorf("--%s %q: %w: give %s", name, f.text, domain.ErrInvalid, c.Flag(name).Usage)
			}
		}
		*f.to = &n
	}
	return nil
}

func volumeSetCommand() *cobra.Command {
	var p inPool
	var limits limitFlags
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a volume's limits, also while it is used", Args: exactly(1, "one NAME"),
		Example: "  holdfast volume set db1 --iops 500 --bandwidth 50MiB --pool /srv/volumes",
		RunE: func(cmd *cobra.Command, args []string) error {
			r := pool.Request{Verb: pool.VerbSet, Name: args[0]}
			if err := limits.put(cmd, &r); err != nil {
				return err
			}
			if r.IOPS == nil && r.Bandwidth == nil {
				return fmt.Errorf("volume set needs --iops or --bandwidth: %w", domain.ErrInvalid)
			}
			return p.do(cmd, r)
		},
	}
	limits.flags(c)
	return p.flags(c)
}

func limitsText(v pool.Info) string {
	text := ""
	if v.IOPS > 0 {
		text = fmt.Sprintf("%d operations a second ", v.IOPS)
	}
	if v.Bandwidth > 0 {
		text += config.Size(v.Bandwidth).String() + " a second"
	}
	if text == "" {
		return "none"
	}
	return text
}

func volumeStatsCommand() *cobra.Command {
	var p inPool
	return p.flags(&cobra.Command{
		Use: "stats NAME", Short: "Show what a volume did since it is served, and how long it took", Args: exactly(1, "one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			reply, err := p.call(cmd, pool.Request{Verb: pool.VerbStats, Name: args[0]})
			if err != nil {
				return err
			}
			if p.output == "json" {
				return printJSON(cmd.OutOrStdout(), reply.Stats)
			}
			return printStats(cmd.OutOrStdout(), reply.Stats)
		},
	})
}

func printStats(out io.Writer, s *opstats.Stats) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "since %s, times in microseconds\n", s.Since.Format("2006-01-02 15:04:05 MST"))
	fmt.Fprintln(w, "\tOPS\tFAILED\tBYTES\tMEAN\tP50\tP90\tP99\tP99.9\tMAX\t")
	for _, c := range []struct {
		name string
		s    opstats.Summary
	}{{"read", s.Read}, {"write", s.Write}, {"flush", s.Flush}, {"other", s.Other}} {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", c.name, c.s.Ops, c.s.Failed, c.s.Bytes,
			c.s.MeanUs, c.s.P50Us, c.s.P90Us, c.s.P99Us, c.s.P999Us, c.s.MaxUs)
	}
	return w.Flush()
}

func volumeImportCommand() *cobra.Command {
	var p inPool
	r := pool.Request{Verb: pool.VerbImport}
	c := &cobra.Command{
		Use: "import FILE NAME", Short: "Make a volume of a file's content", Args: exactly(2, "FILE and NAME"),
		Long: "Make a volume of a file's content. Zeroes take no space. Other formats than raw are found out by how the file begins, and need\n" +
			"qemu-img.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[1]
			return p.transfer(cmd, r, args[0])
		},
	}
	c.Flags().StringVar(&r.Format, "format", "", "raw, qcow2, vmdk, vhdx or vpc; found out when not given")
	return p.flags(c)
}

// transfer carries out a request about a file, which the pool's server may have to find from another folder.
func (p *inPool) transfer(cmd *cobra.Command, r pool.Request, file string) (err error) {
	if r.File, err = filepath.Abs(file); err != nil {
		return err
	}
	return p.do(cmd, r)
}

func volumeExportCommand() *cobra.Command {
	var p inPool
	r := pool.Request{Verb: pool.VerbExport}
	c := &cobra.Command{
		Use: "export NAME FILE", Short: "Write a volume's content into a new file, also while it is used", Args: exactly(2, "NAME and FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			return p.transfer(cmd, r, args[1])
		},
	}
	c.Flags().StringVar(&r.Format, "format", "raw", "raw, qcow2, vmdk, vhdx or vpc; all but raw need qemu-img")
	return p.flags(c)
}
