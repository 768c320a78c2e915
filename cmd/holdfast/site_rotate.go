package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func siteRotateCommand() *cobra.Command {
	var r sitefolder.Rotation
	c := &cobra.Command{
		Use: "rotate", Short: "Renew a site's keys, certificates and credentials", Args: exactly(0, "no argument"),
		Long: "Make new keys for every principal of a site, beside those in use. The founder signs its own at once; another site gets a\n" +
			"renewed card, which the founder's site join signs and the installation.json that it writes brings back. What is in use stays\n" +
			"good until site rotate --retire at the founder, and services change over by themselves. VM hosts that were added to\n" +
			"config/site.yaml get their credentials on the way.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "dir"); err != nil {
				return err
			}
			if r.CA && r.Retire || (r.CA || r.Retire) && (r.Address != "" || r.Again) {
				return fmt.Errorf("%s: %w: --ca and --retire each stand alone", cmd.CommandPath(), domain.ErrInvalid)
			}
			done, err := sitefolder.Rotate(r)
			if err != nil {
				return err
			}
			printRotated(cmd.OutOrStdout(), r, done)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&r.Dir, "dir", "", "the site's folder")
	f.StringVar(&r.Address, "address", "", "HOST[:PORT] that the other sites reach this site at from now on")
	f.BoolVar(&r.Again, "again", false, "make new keys although those of a rotation before were not signed yet")
	f.BoolVar(&r.CA, "ca", false, "at the founder: make a new CA beside the old one; afterwards rotate every site")
	f.BoolVar(&r.Retire, "retire", false, "at the founder, when every site has the new installation.json: refuse what was replaced")
	return c
}

func printRotated(w io.Writer, r sitefolder.Rotation, d sitefolder.Rotated) {
	switch {
	case d.Card != "":
		fmt.Fprintf(w, "Made new keys for site %s; those in use stay in use. Card fingerprint %s\n\nNext:\n", d.Site, d.Fingerprint)
		fmt.Fprintf(w, "  copy %s (public) to the founder, and there: holdfast site join --dir DIR %s.card.json\n", d.Card, d.Site)
		fmt.Fprintf(w, "  with the installation.json it gives you, here: holdfast site join --dir %s installation.json\n", r.Dir)
		return
	case r.Retire:
		fmt.Fprintf(w, "Retired %d replaced credentials", d.Retired)
		if d.OldCA {
			fmt.Fprint(w, " and the replaced CA")
		}
		fmt.Fprintln(w, ": each site refuses them once it has this installation file.")
	case r.CA:
		fmt.Fprintln(w, "Made a new CA. Sites trust both once they have this installation file; then rotate every site, this one too, and retire the old one.")
	default:
		fmt.Fprintf(w, "Renewed the keys of site %s; those of before stay good until site rotate --retire.\n", d.Site)
	}
	printJoined(w, *d.Joined)
}
