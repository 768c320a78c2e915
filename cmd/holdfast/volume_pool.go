package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/pool"
)

const poolEnv = "HOLDFAST_POOL"

// inPool is what every command on a pool has.
type inPool struct{ dir, output string }

func (p *inPool) flags(c *cobra.Command) *cobra.Command {
	f := c.Flags()
	f.StringVar(&p.dir, "pool", os.Getenv(poolEnv), "the pool's folder (also in "+poolEnv+")")
	f.StringVarP(&p.output, "output", "o", "text", "text or json")
	return c
}

// do carries out a request and prints the volumes it is answered with.
func (p *inPool) do(cmd *cobra.Command, r pool.Request) error {
	reply, err := p.call(cmd, r)
	if err != nil {
		return err
	}
	if p.output == "json" {
		return printJSON(cmd.OutOrStdout(), reply)
	}
	switch r.Verb {
	case pool.VerbDelete:
		return nil
	case pool.VerbList:
		return printVolumes(cmd.OutOrStdout(), reply.Volumes)
	}
	return printVolume(cmd.OutOrStdout(), reply.Volumes[0])
}

func (p *inPool) call(cmd *cobra.Command, r pool.Request) (pool.Reply, error) {
	if p.output != "text" && p.output != "json" {
		return pool.Reply{}, fmt.Errorf("--output %q: %w: use text or json", p.output, domain.ErrInvalid)
	}
	if p.dir == "" {
		return pool.Reply{}, fmt.Errorf("no pool: %w: give --pool DIR, or set %s", domain.ErrInvalid, poolEnv)
	}
	return pool.Call(cmd.Context(), p.dir, r.Verb == pool.VerbCreate || r.Verb == pool.VerbImport, r)
}

func poolCommands() []*cobra.Command {
	return []*cobra.Command{
		volumeCreateCommand(), volumeListCommand(), volumeShowCommand(), volumeResizeCommand(),
		volumeSnapshotCommand(), volumeCloneCommand(), volumeDeleteCommand(), volumeSetCommand(), volumeStatsCommand(),
		volumeImportCommand(), volumeExportCommand(),
	}
}

func volumeCreateCommand() *cobra.Command {
	var p inPool
	var size string
	var limits limitFlags
	r := pool.Request{Verb: pool.VerbCreate}
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a volume of zeroes, or one on a block device", Args: exactly(1, "one NAME"),
		Example: "  holdfast volume create db1 --size 10GiB --pool /srv/volumes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.Device == "" {
				if err := need(cmd, "size"); err != nil {
					return err
				}
			} else if full, err := filepath.Abs(r.Device); err == nil {
				r.Device = full
			}
			if err := limits.put(cmd, &r); err != nil {
				return err
			}
			return sized(cmd, &p, &r, args[0], size)
		},
	}
	c.Flags().StringVar(&size, "size", "", "size with its unit, as in 10GiB; a multiple of 4KiB")
	c.Flags().StringVar(&r.Durability, "durability", "cached", "cached (durable on flush, as disks do) or strict (every write durable when it completes)")
	limits.flags(c)
	c.Flags().StringVar(&r.Device, "device", "", "a file or block device outside of the pool to take as it is, instead of space in the pool")
	return p.flags(c)
}

// sized carries out a request with a size that was given as text, if it was.
func sized(cmd *cobra.Command, p *inPool, r *pool.Request, name, size string) error {
	if size != "" {
		n, err := config.ParseSize(size)
		if err != nil {
			return fmt.Errorf("--size: %w: %w", err, domain.ErrInvalid)
		}
		r.SizeBytes = int64(n)
	}
	r.Name = name
	return p.do(cmd, *r)
}

func volumeListCommand() *cobra.Command {
	var p inPool
	return p.flags(&cobra.Command{
		Use: "list", Short: "List the volumes and snapshots of a pool", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.do(cmd, pool.Request{Verb: pool.VerbList}) },
	})
}

func volumeShowCommand() *cobra.Command {
	var p inPool
	return p.flags(&cobra.Command{
		Use: "show NAME", Short: "Show one volume or snapshot", Args: exactly(1, "one NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.do(cmd, pool.Request{Verb: pool.VerbShow, Name: args[0]})
		},
	})
}

func volumeResizeCommand() *cobra.Command {
	var p inPool
	var size string
	r := pool.Request{Verb: pool.VerbResize}
	c := &cobra.Command{
		Use: "resize NAME", Short: "Make a volume larger, also while it is used", Args: exactly(1, "one NAME"),
		Example: "  holdfast volume resize db1 --size 20GiB --pool /srv/volumes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "size"); err != nil {
				return err
			}
			return sized(cmd, &p, &r, args[0], size)
		},
	}
	c.Flags().StringVar(&size, "size", "", "the new size with its unit, as in 20GiB; a multiple of 4KiB")
	c.Flags().BoolVar(&r.AllowShrink, "allow-shrink", false, "allow a smaller size, which loses what lies beyond it; only while the pool is not served")
	return p.flags(c)
}

func volumeSnapshotCommand() *cobra.Command {
	var p inPool
	return p.flags(&cobra.Command{
		Use: "snapshot NAME SNAP", Short: "Keep a volume as it is now, read-only, under a new name", Args: exactly(2, "NAME and SNAP"),
		Long: "Keep a volume as it is now, at a point between all writes, as a crash of its host would leave it. The snapshot takes the space\n" +
			"of what is overwritten later, and is served read-only.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.do(cmd, pool.Request{Verb: pool.VerbSnapshot, Name: args[0], New: args[1]})
		},
	})
}

func volumeCloneCommand() *cobra.Command {
	var p inPool
	return p.flags(&cobra.Command{
		Use: "clone SNAP|NAME NEW", Short: "Make a writable volume that begins as another is, without a copy", Args: exactly(2, "SNAP or NAME, and NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.do(cmd, pool.Request{Verb: pool.VerbClone, Name: args[0], New: args[1]})
		},
	})
}

func volumeDeleteCommand() *cobra.Command {
	var p inPool
	r := pool.Request{Verb: pool.VerbDelete}
	c := &cobra.Command{
		Use: "delete NAME", Short: "Delete a volume or snapshot and its data", Args: exactly(1, "one NAME"),
		Long: "Delete a volume or snapshot. It is refused (exit 3) while initiators are logged in to it, while snapshots or clones depend on it,\n" +
			"and without --yes. What a deleted snapshot had and its volume still reads is merged into the volume.",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			return p.do(cmd, r)
		},
	}
	c.Flags().BoolVar(&r.Yes, "yes", false, "yes, the data may be lost")
	return p.flags(c)
}

func printVolumes(out io.Writer, all []pool.Info) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tSIZE\tALLOCATED\tSHARED\tFROM\tSESSIONS\tURL")
	for _, v := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", v.Name, v.Kind, config.Size(v.SizeBytes), config.Size(v.AllocatedBytes), config.Size(v.SharedBytes),
			orDash(v.Of+v.Origin), v.Sessions, orDash(v.URL))
		if v.Error != "" {
			fmt.Fprintf(w, "\terror: %s\n", v.Error)
		}
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func printVolume(out io.Writer, v pool.Info) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("name", v.Name)
	line("kind", v.Kind)
	line("snapshot of", v.Of)
	line("cloned from", v.Origin)
	line("size", config.Size(v.SizeBytes).String())
	line("allocated", config.Size(v.AllocatedBytes).String())
	line("shared", config.Size(v.SharedBytes).String())
	line("layers", fmt.Sprint(v.Layers))
	line("device", v.Device)
	line("durability", string(v.Durability))
	line("limits", limitsText(v))
	line("created", v.Created.Format("2006-01-02 15:04:05 MST"))
	line("target", v.IQN)
	line("url", v.URL)
	line("sessions", fmt.Sprint(v.Sessions))
	line("error", v.Error)
	return w.Flush()
}
