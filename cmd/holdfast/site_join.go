package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func siteJoinCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "join FILE...", Short: "Admit sites by their cards, or complete a site with the installation file",
		Long: "At the site that founded the installation: sign the cards of other sites, new or renewed, and write installation.json.\n" +
			"At another site: check installation.json against the CA pinned at init, and complete the folder. Both may be repeated.",
		Example: "  holdfast site join --dir a b.card.json w.card.json\n  holdfast site join --dir b installation.json",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%s takes the cards of other sites, or one installation.json: %w", c.CommandPath(), domain.ErrInvalid)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "dir"); err != nil {
				return err
			}
			j, err := sitefolder.Join(dir, args)
			if err != nil {
				return err
			}
			printJoined(cmd.OutOrStdout(), j)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the site's folder")
	return c
}

func printJoined(w io.Writer, j sitefolder.Joined) {
	for _, s := range j.Signed {
		what := "Admitted site %s, card fingerprint %s: compare it with what was shown there.\n"
		switch {
		case s.Before:
			what = "Site %s was admitted before, card fingerprint %s.\n"
		case s.Renewed:
			what = "Signed the new keys of site %s, card fingerprint %s. Those of before stay good: see holdfast site rotate --retire.\n"
		}
		fmt.Fprintf(w, what, s.Site, s.Fingerprint)
	}
	var sites []string
	for _, s := range j.Installation.Sites {
		sites = append(sites, fmt.Sprintf("%s (%s)", s.Site, s.Role))
	}
	fmt.Fprintf(w, "Site %s has installation %s, serial %d: %s.\n\nNext:\n", j.Site, j.Installation.Cluster, j.Installation.Serial, strings.Join(sites, ", "))
	if j.Outgoing != "" {
		fmt.Fprintf(w, "  copy %s (public) to the other sites, and at each: holdfast site join --dir DIR installation.json\n", j.Outgoing)
	}
	printStart(w, j)
}

// printStart says how the site takes up what has changed.
func printStart(w io.Writer, j sitefolder.Joined) {
	compose := "in " + string(j.Folder) + ": docker-compose "
	switch {
	case j.Embedded:
		fmt.Fprintf(w, "  start the site: holdfast site --config %s\n", j.Folder.Config())
		if !j.First && j.Sites {
			fmt.Fprintln(w, "  where it runs already: start it again, for it reads its list of sites when it starts; certificates and accounts it takes up by itself")
		}
	case j.First || j.Sites:
		fmt.Fprintf(w, "  %sup -d\n", compose)
		if !j.First {
			fmt.Fprintf(w, "  where it runs already: %skill -s HUP nats, and then %srestart, for the services read their list of sites when they start\n", compose, compose)
		}
	case j.Server:
		fmt.Fprintf(w, "  where it runs already: %skill -s HUP nats; the services take new credentials up by themselves\n", compose)
	default:
		fmt.Fprintln(w, "  nothing: all of this was done before")
	}
}
