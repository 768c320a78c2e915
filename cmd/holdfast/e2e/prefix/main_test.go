//go:build e2e

package prefix

import (
	"os"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
)

// product is the binary under test, built once for all of them.
var product string

func TestMain(m *testing.M) {
	os.Exit(sitestest.Main(m, &product))
}

func newSites(t *testing.T, mode string) *sitestest.Sites {
	t.Helper()
	return sitestest.New(t, sitestest.Options{Product: product, Mode: mode})
}
