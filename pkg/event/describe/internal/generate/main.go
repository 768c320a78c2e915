// Command generate writes comments.json, the doc comments of every type that is part of an event; built again with those,
// it writes the documentation.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/pkg/event/describe"
	"github.com/holdfast-dr/holdfast/pkg/event/describe/internal/comments"
)

func main() {
	out := flag.String("comments", "", "file to write the comments of the packages in the folders named to")
	docs := flag.String("docs", "", "folder to write the documentation into")
	flag.Parse()
	err := run(*out, flag.Args())
	if *docs != "" {
		err = describe.Write(*docs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(out string, dirs []string) error {
	if out == "" {
		return nil
	}
	texts, err := comments.Read(describe.TypeNames(), dirs...)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(texts, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(data, '\n'), 0o644)
}
