package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const embeddedEnv = "HOLDFAST_EMBEDDED"

// siteFolderCommands make and keep a site's folder.
func siteFolderCommands() []*cobra.Command {
	return []*cobra.Command{siteInitCommand(), siteJoinCommand(), siteRotateCommand(), siteShowCommand(), siteDrainCommand(), siteUndrainCommand()}
}

func siteInitCommand() *cobra.Command {
	var o sitefolder.Options
	var name, role string
	c := &cobra.Command{
		Use: "init", Short: "Make a new site's folder: keys, configuration, compose file", Args: exactly(0, "no argument"),
		Long: "Make the folder of a new site. Without --peer it also founds an installation, with a CA of its own in DIR/ca; with the\n" +
			"founder's card as --peer it makes keys and a card that asks the founder to sign them. Private keys never leave the folder.\n" +
			"See docs/operations/install.md.",
		Example: "  holdfast site init --dir a --name a --role data --address 192.0.2.1\n" +
			"  holdfast site init --dir w --name w --role witness --address 203.0.113.1:4222 --peer a.card.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "dir", "name", "role", "address"); err != nil {
				return err
			}
			o.Name, o.Role = domain.SiteID(name), domain.SiteRole(role)
			made, err := sitefolder.Init(o)
			if err != nil {
				return err
			}
			printMade(cmd.OutOrStdout(), made)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "the folder to make")
	f.StringVar(&name, "name", "", "the site's name, 1 to 32 of a-z, 0-9 and '-'")
	f.StringVar(&role, "role", "", "data: stores and runs; witness: only votes")
	f.StringVar(&o.Address, "address", "", "HOST[:PORT] at which the other sites reach this site's NATS server (port 4222)")
	f.StringVar(&o.Listen, "listen", "", "the address of this machine to listen on, where it is not HOST (behind NAT: 0.0.0.0)")
	f.IntVar(&o.Index, "index", 0, "1 to 255, never given to another site (the founder's is 1, a data site's the next after its peers', a witness's one from 101)")
	f.StringArrayVar(&o.Peers, "peer", nil, "the card of a site that is there; one of them must be the founder's")
	f.StringVar(&o.Cluster, "cluster", "", "the name of a new installation (main)")
	f.StringVar(&o.CACert, "ca-cert", "", "found the installation under your own CA: its certificate, PEM")
	f.StringVar(&o.CAKey, "ca-key", "", "the key of --ca-cert, PEM, ECDSA")
	f.StringVar(&o.Zone, "zone", "", "the DNS zone whose names move with VMs (CLUSTER.internal)")
	f.StringArrayVar(&o.Hosts, "host-id", nil, "a VM host of this site (NAME-h1)")
	f.StringVar(&o.Groups, "groups", "", "a YAML file with hosts, groups and plans to put into config/site.yaml")
	f.BoolVar(&o.Embedded, "embedded", os.Getenv(embeddedEnv) == "true", "run the NATS server inside holdfast site, without containers (also "+embeddedEnv+"=true)")
	f.BoolVar(&o.Force, "force", false, "where the folder is in use, move what is there aside to DIR.before-N")
	return c
}

func printMade(w io.Writer, m sitefolder.Made) {
	if m.Aside != "" {
		fmt.Fprintf(w, "What was in %s is now in %s.\n", m.Folder, m.Aside)
	}
	if m.Founded {
		fmt.Fprintf(w, "Founded installation %s with site %s (%s, index %d) in %s.\n", m.Cluster, m.Site, m.Role, m.Index, m.Folder)
	} else {
		fmt.Fprintf(w, "Made site %s (%s, index %d) of installation %s in %s.\n", m.Site, m.Role, m.Index, m.Cluster, m.Folder)
		fmt.Fprintf(w, "It trusts the CA on the card of site %s, fingerprint %s: compare it with what was shown there.\n", m.Founder, m.Pinned)
	}
	fmt.Fprintf(w, "Its card is %s (public), fingerprint %s\n\nNext:\n", m.Card, m.Fingerprint)
	if !m.Founded {
		fmt.Fprintf(w, "  copy %s to site %s, and there: holdfast site join --dir DIR %s.card.json\n", m.Card, m.Founder, m.Site)
		fmt.Fprintf(w, "  with the installation.json it gives you, here: holdfast site join --dir %s installation.json\n", m.Folder)
		return
	}
	fmt.Fprintf(w, "  back up %s, which signs for the installation, and keep the copy apart\n", m.Folder.CA())
	fmt.Fprintf(w, "  copy the card to each other site, and there: holdfast site init --dir DIR --name NAME --role data|witness --address HOST --peer %s.card.json\n", m.Site)
	fmt.Fprintf(w, "  with their cards, here: holdfast site join --dir %s b.card.json w.card.json\n", m.Folder)
}
