package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// inQuarantine is what every command on kept writes has.
type inQuarantine struct {
	remote
	site string
}

func quarantineCommand() *cobra.Command {
	q := new(inQuarantine)
	c := parent(&cobra.Command{Use: "quarantine", Short: "Look at, export and discard writes that were kept aside when a site's copy had diverged"})
	q.flags(c)
	c.PersistentFlags().StringVar(&q.site, "site", "", "the site that keeps them; by default every data site is asked")
	c.AddCommand(
		&cobra.Command{Use: "list [GROUP]", Short: "List what was kept aside, of one group or of all", Args: atMost(1, "at most one GROUP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return q.list(cmd, domain.GroupID(strings.Join(args, "")))
			}},
		&cobra.Command{Use: "show ID", Short: "Show one item with every extent: volume, place, length, LSN and time", Args: exactly(1, "one ID (see holdfast quarantine list)"),
			RunE: func(cmd *cobra.Command, args []string) error { return q.show(cmd, args[0]) }},
		&cobra.Command{Use: "export ID DIR", Short: "Write an item as a sparse raw file a volume, and a map of it, into a new folder on this machine",
			Args: exactly(2, "ID and DIR"),
			Long: "Write what was kept aside as <volume>.img, a sparse raw file of the volume's size that holds the diverged writes at their places and\n" +
				"nothing else, and map.json: every extent with its LSN and time. map.json is written last: without it the export is not whole.",
			Example: "  holdfast quarantine export erp-e257-1031-1042 ./kept --config site-a.yaml",
			RunE:    func(cmd *cobra.Command, args []string) error { return q.export(cmd, args[0], args[1]) }},
		quarantineDiscardCommand(q),
	)
	return c
}

func atMost(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%s takes %s, got %d arguments: %w", c.CommandPath(), what, len(args), domain.ErrInvalid)
		}
		return nil
	}
}

func quarantineDiscardCommand(q *inQuarantine) *cobra.Command {
	var r api.QuarantineDiscard
	c := &cobra.Command{
		Use: "discard ID", Short: "Delete an item for good; kept in the audit", Args: exactly(1, "one ID (see holdfast quarantine list)"),
		Long:    "Delete what was kept aside, for good. It is refused (exit 3) without --yes, and not done when the site's audit cannot record it.",
		Example: "  holdfast quarantine discard erp-e257-1031-1042 --yes --why 'the owner took over what was needed'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "why"); err != nil {
				return err
			}
			return q.discard(cmd, args[0], r)
		},
	}
	f := c.Flags()
	f.BoolVar(&r.Yes, "yes", false, "yes, the writes may be lost")
	f.StringVar(&r.Why, "why", "", "why; kept in the audit")
	f.StringVar(&r.By, "by", "", "who; by default the user of this system")
	return c
}

// sites are those to ask.
func (q *inQuarantine) sites(cfg config.Config) ([]domain.SiteID, error) {
	var all []domain.SiteID
	for _, s := range cfg.Sites {
		if s.Role == domain.SiteData && (q.site == "" || q.site == string(s.ID)) {
			all = append(all, s.ID)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--site %q is no data site of the configuration: %w", q.site, domain.ErrInvalid)
	}
	return all, nil
}

// quarantines is what the sites keep, and which of them did not answer.
type quarantines struct {
	Items    []api.Quarantined `json:"items"`
	Problems []string          `json:"problems,omitempty"`
}

func (q *inQuarantine) ask(ctx context.Context, cfg config.Config, mesh *bus.Mesh, id domain.GroupID) (quarantines, error) {
	out := quarantines{Items: []api.Quarantined{}}
	sites, err := q.sites(cfg)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	for _, s := range sites {
		conn, err := mesh.Conn(s)
		if err != nil {
			return out, err
		}
		wctx, cancel := context.WithTimeout(ctx, connectPatience)
		err = conn.AwaitConnected(wctx)
		cancel()
		var reply api.QuarantineReply
		if err == nil {
			reply, err = bus.Call[api.QuarantineReply](ctx, conn, api.ServiceReplicator, api.VerbQuarantine, api.QuarantineRequest{Group: id})
		}
		if err != nil {
			out.Problems = append(out.Problems, fmt.Sprintf("site %s: %v", s, err))
		}
		out.Items = append(out.Items, reply.Items...)
	}
	return out, nil
}

func (q *inQuarantine) list(cmd *cobra.Command, id domain.GroupID) error {
	cfg, mesh, err := q.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	all, err := q.ask(cmd.Context(), cfg, mesh, id)
	if err != nil {
		return err
	}
	if q.output == "json" {
		err = printJSON(cmd.OutOrStdout(), all)
	} else {
		err = printQuarantines(cmd.OutOrStdout(), all)
	}
	if err == nil && len(all.Problems) > 0 {
		err = fmt.Errorf("the list is %w: %d of the sites did not answer: see the problems above", errPartial, len(all.Problems))
	}
	return err
}

func printQuarantines(out io.Writer, all quarantines) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tGROUP\tSITE\tEPOCH\tWRITES\tBYTES\tFROM\tTO")
	for _, i := range all.Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", i.ID, i.Group, i.Site, i.Epoch, i.Writes, i.Bytes, i.From.Local().Format(time.DateTime), i.To.Local().Format(time.DateTime))
	}
	for _, p := range all.Problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	return w.Flush()
}

// find connects, and gives the one item of an ID and the connection to the site that keeps it, until hangUp.
func (q *inQuarantine) find(cmd *cobra.Command, id string) (item api.Quarantined, conn *bus.Conn, hangUp func(), err error) {
	cfg, mesh, err := q.open(cmd.Context())
	if err != nil {
		return item, nil, nil, err
	}
	if item, conn, err = q.keeper(cmd.Context(), cfg, mesh, id); err != nil {
		mesh.Close()
	}
	return item, conn, mesh.Close, err
}

// keeper is the one item of an ID, whole, and the connection to the site that keeps it.
func (q *inQuarantine) keeper(ctx context.Context, cfg config.Config, mesh *bus.Mesh, id string) (item api.Quarantined, conn *bus.Conn, err error) {
	all, err := q.ask(ctx, cfg, mesh, "")
	if err != nil {
		return item, nil, err
	}
	var at []string
	for _, i := range all.Items {
		if i.ID == id {
			item, at = i, append(at, string(i.Site))
		}
	}
	switch {
	case len(at) == 0 && len(all.Problems) > 0:
		return item, nil, fmt.Errorf("no site that answered keeps %q, and %s: %w", id, strings.Join(all.Problems, "; "), domain.ErrUnavailable)
	case len(at) == 0:
		return item, nil, fmt.Errorf("no site keeps %q aside: see holdfast quarantine list: %w", id, domain.ErrNotFound)
	case len(at) > 1:
		return item, nil, fmt.Errorf("sites %s each keep an item %s: say which with --site: %w", strings.Join(at, ", "), id, domain.ErrInvalid)
	}
	conn, err = mesh.Conn(item.Site)
	if err != nil {
		return item, nil, err
	}
	item, err = wholeItem(ctx, conn, item, q.timeout)
	return item, conn, err
}

// wholeItem asks for every extent, page by page.
func wholeItem(ctx context.Context, conn *bus.Conn, item api.Quarantined, timeout time.Duration) (api.Quarantined, error) {
	var extents []api.QuarantinedExtent
	for {
		cctx, cancel := context.WithTimeout(ctx, timeout)
		r, err := bus.Call[api.QuarantineReply](cctx, conn, api.ServiceReplicator, api.VerbQuarantine, api.QuarantineRequest{Group: item.Group, ID: item.ID, From: len(extents)})
		cancel()
		if err != nil || len(r.Items) != 1 {
			return item, errors.Join(fmt.Errorf("read the map of %s at site %s", item.ID, item.Site), err)
		}
		extents = append(extents, r.Items[0].Extents...)
		if len(extents) >= r.Items[0].Count || len(r.Items[0].Extents) == 0 {
			item = r.Items[0]
			item.Extents = extents
			return item, nil
		}
	}
}

func (q *inQuarantine) show(cmd *cobra.Command, id string) error {
	item, _, hangUp, err := q.find(cmd, id)
	if err != nil {
		return err
	}
	defer hangUp()
	if q.output == "json" {
		return printJSON(cmd.OutOrStdout(), item)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\ngroup\t%s\nkept at\tsite %s, %s\nwritten under\tepoch %s, LSN %d to %d\nholds\t%d writes, %d bytes\n", item.ID, item.Group, item.Site, item.Path,
		item.Epoch, item.FirstLSN, item.LastLSN, item.Writes, item.Bytes)
	fmt.Fprintln(w, "\nLSN\tVOLUME\tOFFSET\tLENGTH\tTIME")
	for _, e := range item.Extents {
		lsn, at := "-", "order and time not known"
		if e.LSN != 0 {
			lsn, at = fmt.Sprint(e.LSN), e.Time.Local().Format("2006-01-02 15:04:05.000")
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", lsn, e.Volume, e.Offset, e.Length, at)
	}
	return w.Flush()
}

func (q *inQuarantine) export(cmd *cobra.Command, id, dir string) error {
	item, conn, hangUp, err := q.find(cmd, id)
	if err != nil {
		return err
	}
	defer hangUp()
	read := func(file string) io.Reader {
		return &remoteFile{ctx: cmd.Context(), conn: conn, timeout: q.timeout, at: api.QuarantineRead{Group: item.Group, ID: item.ID, File: file}}
	}
	done, err := group.ExportQuarantined(item, read(api.QuarantineFrames), read(api.QuarantineBlocks), dir)
	if err != nil {
		return err
	}
	if q.output == "json" {
		return printJSON(cmd.OutOrStdout(), done)
	}
	for _, i := range done.Images {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: what volume %s diverged by, sparse, %d bytes long\n", filepath.Join(dir, i.File), i.Volume, i.Size)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %d extents\n", filepath.Join(dir, group.ExportMapFile), len(done.Extents))
	return nil
}

// remoteFile reads a kept file piece by piece. A piece that was not answered is asked for again.
type remoteFile struct {
	ctx     context.Context //nolint:containedctx // io.Reader has no place for it
	conn    *bus.Conn
	timeout time.Duration
	at      api.QuarantineRead
	rest    []byte
}

const pieceTries = 5

// Read implements io.Reader.
func (r *remoteFile) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		piece, err := r.piece()
		if err != nil {
			return 0, err
		}
		if len(piece.Data) == 0 {
			return 0, io.EOF
		}
		r.rest = piece.Data
		r.at.Offset += int64(len(piece.Data))
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *remoteFile) piece() (piece api.QuarantinePiece, err error) {
	for range pieceTries {
		ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
		piece, err = bus.Call[api.QuarantinePiece](ctx, r.conn, api.ServiceReplicator, api.VerbQuarantineRead, r.at)
		cancel()
		if !errors.Is(err, domain.ErrUnavailable) || r.ctx.Err() != nil {
			break
		}
	}
	return piece, err
}

func (q *inQuarantine) discard(cmd *cobra.Command, id string, r api.QuarantineDiscard) error {
	item, conn, hangUp, err := q.find(cmd, id)
	if err != nil {
		return err
	}
	defer hangUp()
	r.Group, r.ID = item.Group, item.ID
	sayWho(&r.By, &r.Host)
	ctx, cancel := context.WithTimeout(cmd.Context(), q.timeout)
	defer cancel()
	gone, err := bus.Call[api.Quarantined](ctx, conn, api.ServiceReplicator, api.VerbQuarantineDiscard, r)
	if err != nil {
		return err
	}
	if q.output == "json" {
		return printJSON(cmd.OutOrStdout(), gone)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "discarded %s at site %s: %d writes, %d bytes\n", gone.ID, gone.Site, gone.Writes, gone.Bytes)
	return nil
}
