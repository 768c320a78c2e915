package describe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/event"
)

// Files makes every generated file of the documentation, by its path under docs/.
func Files() (map[string][]byte, error) {
	b, err := newBook()
	if err != nil {
		return nil, fmt.Errorf("describe events: %w", err)
	}
	out := map[string][]byte{}
	if out["schemas/"+envelopeFile], err = pretty(b.envelope()); err != nil {
		return nil, err
	}
	for _, d := range event.Catalogue() {
		s, err := b.message(d)
		if err != nil {
			return nil, err
		}
		if out["schemas/"+SchemaFile(d)], err = pretty(s); err != nil {
			return nil, err
		}
	}
	if out["events.md"], err = b.markdown(); err != nil {
		return nil, err
	}
	out["asyncapi.yaml"], err = b.asyncAPI()
	return out, err
}

// SchemaFile is the name of an event's schema.
func SchemaFile(d event.Definition) string { return d.Type() + ".json" }

func pretty(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// Write writes every file into a folder, and removes schemas of events that are no longer there.
func Write(dir string) error {
	files, err := Files()
	if err != nil {
		return err
	}
	schemas := filepath.Join(dir, "schemas")
	if err := os.MkdirAll(schemas, 0o755); err != nil {
		return fmt.Errorf("write catalogue of events: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(schemas, "hf.v1.*.json"))
	if err != nil {
		return fmt.Errorf("write catalogue of events: %w", err)
	}
	for _, path := range old {
		if _, ok := files["schemas/"+filepath.Base(path)]; !ok {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("write catalogue of events: %w", err)
			}
		}
	}
	for path, data := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(path)), data, 0o644); err != nil {
			return fmt.Errorf("write catalogue of events: %w", err)
		}
	}
	return nil
}
