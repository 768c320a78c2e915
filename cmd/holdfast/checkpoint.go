package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func checkpointCommand() *cobra.Command {
	r, site := new(remote), new(string)
	c := parent(&cobra.Command{Use: "checkpoint", Short: "List, make, open and export points of a group's past"})
	r.flags(c)
	c.PersistentFlags().StringVar(site, "site", "", "the site whose copy it is; by default the configuration's own")
	c.AddCommand(
		&cobra.Command{Use: "list GROUP", Short: "List the checkpoints of a target's copy, oldest first", Args: exactly(1, "one GROUP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return checkpointList(cmd, r, *site, domain.GroupID(args[0]))
			}},
		checkpointCreateCommand(r, site), checkpointOpenCommand(r, site),
		&cobra.Command{Use: "close GROUP CHECKPOINT", Short: "Take an open checkpoint away, with all that was written to it", Args: exactly(2, "GROUP CHECKPOINT"),
			RunE: func(cmd *cobra.Command, args []string) error {
				req, err := checkpointNamed(args)
				if err == nil {
					_, err = askReplicator[api.Empty](cmd, r, *site, api.VerbCheckpointClose, req)
				}
				return err
			}},
		&cobra.Command{Use: "export GROUP CHECKPOINT VOLUME FILE", Short: "Write a volume as it was to a new sparse file", Args: exactly(4, "GROUP CHECKPOINT VOLUME FILE"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return checkpointExport(cmd, r, *site, args)
			}},
	)
	return c
}

func checkpointCreateCommand(r *remote, site *string) *cobra.Command {
	var req api.CheckpointCreateRequest
	c := &cobra.Command{Use: "create GROUP", Short: "Make every target take a checkpoint at the same change; asked of the site that serves the group", Args: exactly(1, "one GROUP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !req.App {
				if err := need(cmd, "label"); err != nil {
					return err
				}
			}
			req.Group = domain.GroupID(args[0])
			return checkpointCreate(cmd, r, *site, req)
		}}
	c.Flags().StringVar(&req.Label, "label", "", "what it is for; labelled ones are not thinned out. With --app it may be left out")
	c.Flags().BoolVar(&req.App, "app", false, "application-consistent: hold the guests of all the group's VMs still for it, five seconds at most")
	return c
}

func checkpointCreate(cmd *cobra.Command, r *remote, site string, req api.CheckpointCreateRequest) error {
	if site == "" {
		list, err := askFailover[api.GroupList](cmd, r, "", api.VerbGroupList, api.Empty{})
		if err != nil {
			return err
		}
		for _, d := range list.Groups {
			if d.Group.ID == req.Group {
				site = string(d.Site)
			}
		}
	}
	p, err := askReplicator[api.Checkpoint](cmd, r, site, api.VerbCheckpointCreate, req)
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), p)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "checkpoint %d (%s) of group %s\n", p.LSN, p.Kind, req.Group)
	return err
}

func checkpointOpenCommand(r *remote, site *string) *cobra.Command {
	var volumes []string
	var limit string
	c := &cobra.Command{Use: "open GROUP CHECKPOINT", Short: "Serve a checkpoint's volumes over iSCSI, writable, while replication goes on", Args: exactly(2, "GROUP CHECKPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := checkpointNamed(args)
			if err != nil {
				return err
			}
			req := api.CheckpointOpenRequest{Group: at.Group, Checkpoint: at.Checkpoint}
			if limit != "" {
				size, err := config.ParseSize(limit)
				if err != nil || size == 0 {
					return fmt.Errorf("--limit %q: %w: write a whole number with its unit, as 20GiB", limit, domain.ErrInvalid)
				}
				req.LimitBytes = int64(size)
			}
			for _, v := range volumes {
				req.Volumes = append(req.Volumes, domain.VolumeID(v))
			}
			opened, err := askReplicator[api.CheckpointOpened](cmd, r, *site, api.VerbCheckpointOpen, req)
			if err == nil {
				err = limited(req, opened)
			}
			if err != nil {
				return err
			}
			if r.output == "json" {
				return printJSON(cmd.OutOrStdout(), opened)
			}
			for _, d := range opened.Disks {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\n", d.Volume, d.URL)
			}
			return nil
		}}
	c.Flags().StringSliceVar(&volumes, "volumes", nil, "only these volumes")
	c.Flags().StringVar(&limit, "limit", "", "how much may be written to all of them together, as 20GiB; on one that is open it changes that. Without it only copies.checkpoint_reserve counts")
	return c
}

// limited is an error where a replicator of before limits was asked for one: it opened the checkpoint without.
func limited(req api.CheckpointOpenRequest, opened api.CheckpointOpened) error {
	if opened.LimitBytes >= req.LimitBytes {
		return nil
	}
	return fmt.Errorf("checkpoint %d of group %s is open, but without a limit: the replicator there knows none; update it, or close the checkpoint: %w", req.Checkpoint, req.Group, domain.ErrRefused)
}

// checkpointNamed reads GROUP CHECKPOINT.
func checkpointNamed(args []string) (api.CheckpointRequest, error) {
	lsn, err := strconv.ParseUint(args[1], 10, 63)
	if err != nil || lsn == 0 {
		return api.CheckpointRequest{}, fmt.Errorf("checkpoint %q is no number: %w: see holdfast checkpoint list %s", args[1], domain.ErrInvalid, args[0])
	}
	return api.CheckpointRequest{Group: domain.GroupID(args[0]), Checkpoint: domain.LSN(lsn)}, nil
}

// pieceBytes is how much of a checkpoint is asked for at once.
const pieceBytes = 1 << 20

func checkpointExport(cmd *cobra.Command, r *remote, site string, args []string) (err error) {
	at, err := checkpointNamed(args)
	if err != nil {
		return err
	}
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, site)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[3], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("export to a new file: %w", err)
	}
	read := func(off, n int64) (api.CheckpointPiece, error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
		defer cancel()
		return bus.Call[api.CheckpointPiece](ctx, conn, api.ServiceReplicator, api.VerbCheckpointRead, api.CheckpointReadRequest{Group: at.Group, Checkpoint: at.Checkpoint,
			Volume: domain.VolumeID(args[2]), Offset: off, Length: n})
	}
	size, err := exportTo(f, read)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("export volume %s of checkpoint %d: %w", args[2], at.Checkpoint, err), os.Remove(args[3]))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[3], config.Size(size))
	return err
}

// exportTo writes what read gives, piece by piece, and nothing where it is zeroes.
func exportTo(f *os.File, read func(off, n int64) (api.CheckpointPiece, error)) (size int64, err error) {
	first, err := read(0, 0)
	if err != nil {
		return 0, err
	}
	size = first.SizeBytes
	if err := f.Truncate(size); err != nil {
		return size, err
	}
	for off := int64(0); off < size; off += pieceBytes {
		p, err := read(off, min(pieceBytes, size-off))
		if err != nil {
			return size, err
		}
		for at := 0; at < len(p.Data); at += 4096 {
			part := p.Data[at:min(at+4096, len(p.Data))]
			if bytes.Count(part, []byte{0}) == len(part) {
				continue
			}
			if _, err := f.WriteAt(part, off+int64(at)); err != nil {
				return size, err
			}
		}
	}
	return size, f.Sync()
}

func checkpointList(cmd *cobra.Command, r *remote, site string, g domain.GroupID) error {
	list, err := askReplicator[api.CheckpointList](cmd, r, site, api.VerbCheckpointList, api.GroupRequest{Group: g})
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "CHECKPOINT\tTIME\tAGE\tKIND\tSIZE\tOPEN\tLABEL")
	for _, p := range list.Checkpoints {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.LSN, p.Time.Format(time.RFC3339), time.Since(p.Time).Round(time.Second), p.Kind, config.Size(p.Bytes), openText(p), p.Label)
	}
	fmt.Fprintf(w, "%d checkpoints of group %s at site %s, %s\n", len(list.Checkpoints), g, list.Site, config.Size(list.Bytes))
	return w.Flush()
}

// openText tells of a checkpoint that is open what was written to it.
func openText(p api.Checkpoint) string {
	switch {
	case !p.Open:
		return ""
	case len(p.Disks) == 0: // it is read only
		return "open"
	}
	text := "open, " + config.Size(p.WrittenBytes).String()
	if p.LimitBytes > 0 {
		text += " of " + config.Size(p.LimitBytes).String()
	}
	if p.Refuses != "" {
		text += ", full"
	}
	return text
}
