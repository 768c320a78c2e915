package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

func spec(site domain.SiteID, index int) identity.Spec {
	s := identity.Spec{Cluster: "test", Site: site, Role: domain.SiteData, Index: index, Addresses: []string{"127.0.0.1"}, NATS: "tls://127.0.0.1:4222", Hosts: []domain.HostID{domain.HostID(site) + "-h1"}}
	if site == "w" {
		s.Role, s.Hosts = domain.SiteWitness, nil
	}
	return s
}

type installation struct {
	a, b, w      string
	auth         *identity.Authority
	cardA, cardB identity.Card
	inst         identity.Installation
}

func found(t *testing.T, opt identity.Options) installation {
	t.Helper()
	in := installation{a: t.TempDir(), b: t.TempDir(), w: t.TempDir()}
	var err error
	if in.cardA, err = identity.Found(in.a, spec("a", 1), opt); err != nil {
		t.Fatal(err)
	}
	if in.cardB, err = identity.NewSite(in.b, spec("b", 2), &in.cardA); err != nil {
		t.Fatal(err)
	}
	cardW, err := identity.NewSite(in.w, spec("w", 3), &in.cardA)
	if err != nil {
		t.Fatal(err)
	}
	if in.auth, err = identity.OpenAuthority(in.a, opt); err != nil {
		t.Fatal(err)
	}
	if in.inst, err = in.auth.Admit(in.cardB, cardW); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "installation.json")
	if err := in.inst.Write(path); err != nil {
		t.Fatal(err)
	}
	read, err := identity.ReadInstallation(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{in.a, in.b, in.w} {
		if err := identity.Install(dir, read); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func TestThreeSitesAreFoundedAdmittedAndOpened(t *testing.T) {
	in := found(t, identity.Options{})
	for _, x := range []struct{ dir, name, want string }{
		{in.a, "failover", "a.failover"}, {in.b, "host-b-h1", "b.host-b-h1"}, {in.w, "quorum", "w.quorum"}, {in.w, "operator", "w.operator"}, {in.b, "reader", "b.reader"},
	} {
		c, err := identity.Open(identity.SecretsDir(x.dir), x.name)
		if err != nil {
			t.Fatal(err)
		}
		if c.Principal().String() != x.want {
			t.Errorf("%s: principal %s", x.want, c.Principal())
		}
	}
	a, _ := identity.Open(identity.SecretsDir(in.a), "failover")
	b, _ := identity.Open(identity.SecretsDir(in.b), "quorum")
	s, err := a.Sign([]byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := b.Verify(s, []byte("data"), time.Now()); err != nil || p.String() != "a.failover" {
		t.Fatalf("verify: %s, %v", p, err)
	}
	if _, err := b.Verify(s, []byte("other"), time.Now()); !errors.Is(err, domain.ErrRefused) {
		t.Fatalf("forged: %v", err)
	}
}

func TestWrongModeIsRefusedWithItsMend(t *testing.T) {
	in := found(t, identity.Options{})
	path := filepath.Join(in.a, "secrets", "dns", "user.creds")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := identity.Open(identity.SecretsDir(in.a), "dns")
	if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Fatalf("got %v", err)
	}
}
