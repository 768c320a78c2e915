package sitefolder_test

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

func rotate(t *testing.T, r sitefolder.Rotation) sitefolder.Rotated {
	t.Helper()
	d, err := sitefolder.Rotate(r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// copied is a copy of a site's secrets as they are now: what a thief would have.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "secrets")
	from := filepath.Join(dir, "secrets")
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil || d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// reaches reports whether the holder of secrets gets into a server within a time.
func reaches(t *testing.T, secrets, url string, within time.Duration) bool {
	t.Helper()
	creds, err := identity.Open(secrets, "quorum")
	if err != nil {
		t.Fatal(err)
	}
	urls := map[domain.SiteID]string{"a": url, "b": "tls://127.0.0.1:1"}
	mesh, err := bus.Dial(bus.Config{Site: "b", Service: "quorum", URLs: urls, Logger: slog.New(slog.DiscardHandler), Credentials: creds})
	if err != nil {
		t.Fatal(err)
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn, err := mesh.Conn("a")
	if err != nil {
		t.Fatal(err)
	}
	return conn.AwaitConnected(ctx) == nil
}

func TestRotationKeepsOldCredentialsGoodUntilTheyAreRetired(t *testing.T) {
	s := trio{root: t.TempDir()}
	s.a, s.b = s.file("a"), s.file("b")
	for _, id := range []string{"a", "b"} {
		o := options(s.root, id)
		o.Embedded, o.Address = true, "127.0.0.1:14222"
		if id == "b" {
			o.Peers = []string{s.file("a", "a.card.json")}
		}
		initSite(t, o)
	}
	join(t, s.a, s.file("b", "b.card.json"))
	join(t, s.b, s.file("a", "installation.json"))
	cfg, err := config.Load(s.file("a", "config", "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", Conf: cfg.NATS.Conf, StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	thief := copied(t, s.b)
	if !reaches(t, thief, srv.URL(), 10*time.Second) {
		t.Fatal("the credentials of b are not good to begin with")
	}

	card := rotate(t, sitefolder.Rotation{Dir: s.b}).Card
	_, err = sitefolder.Rotate(sitefolder.Rotation{Dir: s.b})
	refused(t, err, domain.ErrConflict, card, "--again")
	if j := join(t, s.a, card); len(j.Signed) != 1 || !j.Signed[0].Renewed {
		t.Errorf("signed %+v", j.Signed)
	}
	join(t, s.b, s.file("a", "installation.json"))
	if _, err := os.Stat(card); !os.IsNotExist(err) {
		t.Errorf("the renewed card is still there: %v", err)
	}
	for who, secrets := range map[string]string{"old": thief, "new": s.file("b", "secrets")} {
		if !reaches(t, secrets, srv.URL(), 10*time.Second) {
			t.Errorf("the %s credentials are refused before they are retired", who)
		}
	}

	if d := rotate(t, sitefolder.Rotation{Dir: s.a, Retire: true}); d.Retired < 8 {
		t.Errorf("retired %d", d.Retired)
	}
	deadline := time.Now().Add(30 * time.Second)
	for reaches(t, thief, srv.URL(), time.Second) { // until the server has looked at its configuration again
		if time.Now().After(deadline) {
			t.Fatal("the retired credentials are still good")
		}
	}
	if !reaches(t, s.file("b", "secrets"), srv.URL(), 10*time.Second) {
		t.Error("the new credentials are refused")
	}
	_, err = sitefolder.Rotate(sitefolder.Rotation{Dir: s.a, Retire: true})
	refused(t, err, domain.ErrNotFound, "since the last time")
	_, err = sitefolder.Rotate(sitefolder.Rotation{Dir: s.b, Retire: true})
	refused(t, err, domain.ErrRefused, "site b did not found")
}

func TestTheFounderRenewsItselfAndARotationCarriesNewFacts(t *testing.T) {
	s := joined(t)
	before := copied(t, s.a)
	d := rotate(t, sitefolder.Rotation{Dir: s.a})
	if d.Joined == nil || d.Joined.Outgoing != s.file("a", "installation.json") {
		t.Fatalf("rotated %+v", d)
	}
	was, _ := os.ReadFile(filepath.Join(before, "dns", "client.key"))
	if now, _ := os.ReadFile(s.file("a", "secrets", "dns", "client.key")); string(now) == string(was) {
		t.Error("the key is the old one")
	}
	// b has moved, and has another VM host.
	path := s.file("b", "config", "site.yaml")
	rewrite(t, path, path, "hosts: # VM", "hosts:\n  - {id: b-h9, driver: embedded, probe: \"host-b-h9:7101\", separate: true}\n  # VM")
	d = rotate(t, sitefolder.Rotation{Dir: s.b, Address: "198.51.100.7:5222"})
	join(t, s.a, d.Card)
	for _, dir := range []string{s.b, s.w} {
		join(t, dir, s.file("a", "installation.json"))
	}
	for _, dir := range []string{s.a, s.b, s.w} {
		cfg, err := config.Load(filepath.Join(dir, "config", "site.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if b := cfg.Sites[slices.IndexFunc(cfg.Sites, func(s config.Site) bool { return s.ID == "b" })]; b.NATS != "tls://198.51.100.7:5222" || b.DNS != "198.51.100.7:53" {
			t.Errorf("%s says of b %+v", dir, b)
		}
		if v, err := sitefolder.Show(dir, time.Now()); err != nil || len(v.Problems)+len(v.Warnings) > 0 {
			t.Errorf("%s: %v %q %q", dir, err, v.Problems, v.Warnings)
		}
	}
	if _, err := identity.Open(s.file("b", "secrets"), "host-b-h9"); err != nil {
		t.Error(err)
	}
}

func TestANewCAIsTrustedEverywhereBeforeTheOldOneGoes(t *testing.T) {
	s := joined(t)
	carry := func() {
		join(t, s.b, s.file("a", "installation.json"))
		join(t, s.w, s.file("a", "installation.json"))
	}
	rotate(t, sitefolder.Rotation{Dir: s.a, CA: true})
	carry()
	rotate(t, sitefolder.Rotation{Dir: s.a})
	_, err := sitefolder.Rotate(sitefolder.Rotation{Dir: s.a, Retire: true})
	refused(t, err, domain.ErrRefused, "site b")
	for _, dir := range []string{s.b, s.w} {
		join(t, s.a, rotate(t, sitefolder.Rotation{Dir: dir}).Card)
	}
	carry()
	if d := rotate(t, sitefolder.Rotation{Dir: s.a, Retire: true}); !d.OldCA {
		t.Errorf("the old CA is not gone: %+v", d)
	}
	carry()
	v, err := sitefolder.Show(s.w, time.Now())
	if err != nil || len(v.Authorities) != 1 || len(v.Problems) > 0 {
		t.Errorf("%v %+v", err, v)
	}
}

func TestAnInstallationIsFoundedUnderItsOwnersCA(t *testing.T) {
	donor := made(t)
	o := options(t.TempDir(), "a")
	o.CACert, o.CAKey = donor.file("a", "ca", "ca.pem"), donor.file("a", "ca", "ca.key")
	initSite(t, o)
	want, _ := sitefolder.Show(donor.a, time.Now())
	v, err := sitefolder.Show(o.Dir, time.Now())
	if err != nil || len(v.Problems) > 0 || v.Authorities[0] != want.Authorities[0] {
		t.Errorf("%v %+v, want the CA %+v", err, v, want.Authorities)
	}
}
