package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func siteShowCommand() *cobra.Command {
	var dir, output string
	c := &cobra.Command{
		Use: "show", Short: "Show who is in the installation, and check this site's secrets", Args: exactly(0, "no argument"),
		Long: "Show the sites, the card's fingerprint, and when certificates end (a warning within 30 days), and check that every secret is\n" +
			"there, fits its certificate, and is readable by its owner alone. Exit 1 when one is not.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "dir"); err != nil {
				return err
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: %w: use text or json", output, domain.ErrInvalid)
			}
			v, err := sitefolder.Show(dir, time.Now())
			if err != nil {
				return err
			}
			if output == "json" {
				err = printJSON(cmd.OutOrStdout(), v)
			} else {
				err = printView(cmd.OutOrStdout(), v)
			}
			if err == nil && len(v.Problems) > 0 {
				err = fmt.Errorf("the secrets of site %s are not in order (problems: %d), first: %s", v.Site, len(v.Problems), v.Problems[0])
			}
			return err
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the site's folder")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

func printView(w io.Writer, v sitefolder.View) error {
	founder := ""
	if v.Founder {
		founder = ", which was founded here"
	}
	fmt.Fprintf(w, "Site %s (%s) of installation %s%s. Card fingerprint %s\n", v.Site, v.Role, v.Cluster, founder, v.Card)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(v.Sites) > 0 {
		fmt.Fprintf(t, "\nSITE\tROLE\tINDEX\tNATS\tCERTIFICATES END\n")
	}
	for _, s := range v.Sites {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s%s\t%s\n", s.Site, s.Role, s.Index, s.NATS, via(s.Via), s.Ends.Format(time.DateOnly))
	}
	fmt.Fprintf(t, "\nTRUSTED CA\tENDS\n")
	for _, a := range v.Authorities {
		fmt.Fprintf(t, "%s\t%s\n", a.Name, a.Ends.Format(time.DateOnly))
	}
	if len(v.Secrets) > 0 {
		fmt.Fprintf(t, "\nSECRETS HERE\tEND\n")
	}
	for _, s := range v.Secrets {
		fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Ends.Format(time.DateOnly))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range v.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
	for _, p := range v.Warnings {
		fmt.Fprintf(w, "warning: %s\n", p)
	}
	return nil
}
