package group

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACutJournalTailIsToldWithItsPlace(t *testing.T) {
	c := newCluster(t)
	c.boot("a")
	c.promote("a", 257)
	n := c.nodes["a"]
	n.write(0, 0, block(7))
	c.kill("a")
	path := filepath.Join(n.dir, "journal")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(raw, block(7))
	if at < 0 {
		t.Fatal("the write is not in the journal")
	}
	raw[at] ^= 0xff
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := openStore(t.Context(), Config{Site: "a", Dir: n.dir, Logger: slog.New(slog.NewTextHandler(&log, nil))}, c.def)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	for _, want := range []string{"level=WARN", "not whole: it is cut", n.dir, "offset=", "head_lsn="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not told: %s", want, log.String())
		}
	}
}
