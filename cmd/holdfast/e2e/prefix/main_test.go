//go:build e2e

package prefix

import (
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
)

// product is the binary under test, built once for all of them.
var product string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "holdfast-prefix-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		product, err = sitestest.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func newSites(t *testing.T, mode string) *sitestest.Sites {
	t.Helper()
	return sitestest.New(t, sitestest.Options{Product: product, Mode: mode})
}
