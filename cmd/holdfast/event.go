package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

func eventCommand() *cobra.Command {
	c := parent(&cobra.Command{Use: "event", Short: "Follow the facts that the sites publish"})
	c.AddCommand(eventWatchCommand(), eventCatalogueCommand())
	return c
}

func eventWatchCommand() *cobra.Command {
	var r remote
	var f eventFilter
	c := &cobra.Command{
		Use: "watch", Short: "Print events as they happen, one a line, from every site that can be reached", Args: exactly(0, "no argument"),
		Long: "Print events as they happen: one line for people, or with --output json the CloudEvents themselves, one object a line.\n" +
			"Filters narrow each other; a filter given several times, or with commas, takes any of its values.\n" +
			"Any NATS client sees the same at hf.v1.evt.> of a site's server.",
		Example: "  holdfast event watch --entity disaster,run\n" +
			"  holdfast event watch --type group.promoted --type group.fenced --since 24h\n" +
			"  holdfast event watch --group erp --since 2026-11-23T01:30:00Z --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			_, mesh, err := r.open(cmd.Context())
			if err != nil {
				return err
			}
			defer mesh.Close()
			return watch(cmd, mesh, f, r.output)
		},
	}
	r.flags(c)
	f.flags(c)
	return c
}

func watch(cmd *cobra.Command, mesh *bus.Mesh, filter eventFilter, output string) error {
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	var mu sync.Mutex
	show := func(_ context.Context, e event.Event, f event.Fact) {
		if !filter.wants(f) {
			return
		}
		line, err := eventLine(e, f, output)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
		}
		if err != nil {
			cancel(fmt.Errorf("print event: %w", err))
		}
	}
	var wg sync.WaitGroup
	for _, s := range mesh.Sites() {
		wg.Go(func() {
			if err := follow(ctx, mesh, s, filter, show); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: site %s: %v\n", s, err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil && cmd.Context().Err() == nil {
		return err
	}
	return nil
}

// eventLine is one event as it is printed: when, at which site, what.
func eventLine(e event.Event, f event.Fact, output string) (string, error) {
	if output == "json" {
		raw, err := json.Marshal(e)
		return string(raw), err
	}
	return fmt.Sprintf("%s  %-12s  %s", e.Time.Local().Format("2006-01-02 15:04:05.000"), event.Publisher(e), event.Text(e, f)), nil
}

func follow(ctx context.Context, mesh *bus.Mesh, s domain.SiteID, filter eventFilter, show func(context.Context, event.Event, event.Fact)) error {
	conn, err := mesh.Conn(s)
	if err != nil {
		return err
	}
	if conn.AwaitConnected(ctx) != nil {
		return nil
	}
	return conn.FollowEvents(ctx, filter.subjects(s), filter.from(), show)
}
