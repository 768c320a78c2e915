package main

import (
	"context"
	"fmt"
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
	c := parent(&cobra.Command{Use: "checkpoint", Short: "Look at the past of a group's copies"})
	r.flags(c)
	c.PersistentFlags().StringVar(site, "site", "", "the site whose copy it is; by default the configuration's own")
	c.AddCommand(
		&cobra.Command{Use: "list GROUP", Short: "List the checkpoints of a target's copy, oldest first", Args: exactly(1, "one GROUP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return checkpointList(cmd, r, *site, domain.GroupID(args[0]))
			}},
	)
	return c
}

// askReplicator is one question to a site's replicator: connect, ask, close.
func askReplicator[Resp, Req any](cmd *cobra.Command, r *remote, site, verb string, req Req) (Resp, error) {
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
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	return bus.Call[Resp](ctx, conn, api.ServiceReplicator, verb, req)
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
		open := ""
		if p.Open {
			open = "open"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.LSN, p.Time.Format(time.RFC3339), time.Since(p.Time).Round(time.Second), p.Kind, config.Size(p.Bytes), open, p.Label)
	}
	fmt.Fprintf(w, "%d checkpoints of group %s at site %s, %s\n", len(list.Checkpoints), g, list.Site, config.Size(list.Bytes))
	return w.Flush()
}
