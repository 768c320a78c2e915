package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/event/describe"
)

func eventCatalogueCommand() *cobra.Command {
	var format, typ, write string
	c := &cobra.Command{
		Use: "catalogue", Short: "Print every kind of event: as a list, as documentation, as schemas, as AsyncAPI", Args: exactly(0, "no argument"),
		Long: "Print the events that this version publishes.\n\n" +
			"  text        one event a line, and when it is published\n" +
			"  markdown    docs/events.md: every event with an example, every field with type, unit and meaning\n" +
			"  jsonschema  the JSON Schema (draft 2020-12) of the event that --type names, or of the envelope without it\n" +
			"  asyncapi    an AsyncAPI 3.0 document, which refers to the schemas beside it\n" +
			"  contract    what a subscriber may build on, a promise a line; within v1 lines only come\n\n" +
			"With --write all files go into a folder, as they are in docs/.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if write != "" {
				return describe.Write(write)
			}
			return printCatalogue(cmd.OutOrStdout(), format, typ)
		},
	}
	c.Flags().StringVar(&format, "format", "text", "text, markdown, jsonschema, asyncapi or contract")
	c.Flags().StringVar(&typ, "type", "", "a type, for example hf.v1.group.promoted; with --format jsonschema")
	c.Flags().StringVar(&write, "write", "", "folder to write events.md, asyncapi.yaml and schemas/ into")
	return c
}

func printCatalogue(w io.Writer, format, typ string) error {
	path := map[string]string{"markdown": "events.md", "asyncapi": "asyncapi.yaml", "jsonschema": "schemas/cloudevent.json"}[format]
	if typ != "" {
		if err := knownType(typ); err != nil {
			return err
		}
		if format != "jsonschema" {
			return fmt.Errorf("--type with --format %s: %w: it chooses a schema, so use --format jsonschema", format, domain.ErrInvalid)
		}
		path = "schemas/" + typ + ".json"
	}
	switch format {
	case "text":
		for _, d := range event.Catalogue() {
			fmt.Fprintf(w, "%-34s %-10s  %s\n", d.Type(), d.Publisher, d.When)
		}
		return nil
	case "contract":
		lines, err := describe.Contract()
		if err == nil {
			fmt.Fprintln(w, strings.Join(lines, "\n"))
		}
		return err
	}
	if path == "" {
		return fmt.Errorf("--format %q: %w: use text, markdown, jsonschema, asyncapi or contract", format, domain.ErrInvalid)
	}
	files, err := describe.Files()
	if err != nil {
		return err
	}
	_, err = w.Write(files[path])
	return err
}

// knownType refuses a type that is not in the catalogue, with the nearest that are.
func knownType(typ string) error {
	var types []string
	for _, d := range event.Catalogue() {
		types = append(types, d.Type())
	}
	if slices.Contains(types, typ) {
		return nil
	}
	return fmt.Errorf("event type %q: %w: holdfast event catalogue lists all %d", typ, domain.ErrInvalid, len(types))
}
