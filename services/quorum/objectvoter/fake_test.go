package objectvoter_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
)

// keyFile is an access key as AWS' tools write it.
func keyFile(t *testing.T, access, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func configured(t *testing.T, endpoint string) objectvoter.Config {
	t.Helper()
	return objectvoter.Config{Endpoint: endpoint, Bucket: "votes", Prefix: "holdfast/", Credentials: keyFile(t, "someone", "something")}
}

// votes reports whether a request is about a vote, and not a probe.
func votes(r *http.Request) bool { return !strings.Contains(r.URL.Path, ".probe-") }

// twiceProxy sends some requests on twice and gives the second answer.
type twiceProxy struct {
	next http.Handler
	when func(*http.Request) bool
}

func (p *twiceProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.when(r) {
		p.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	for _, to := range []http.ResponseWriter{httptest.NewRecorder(), w} {
		again := r.Clone(r.Context())
		again.Body = io.NopCloser(strings.NewReader(string(body)))
		p.next.ServeHTTP(to, again)
	}
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
