//go:build e2e_compose

package compose

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// intruder is somebody at an address of its own who tries to connect to site a's server.
type intruder struct {
	name   string
	papers papers
	reason string // in the event
	logged string // in the server's log
}

// intruders come to site a's server, each from an address of its own: each is refused, the server's log says why, and an
// event tells everyone who follows the site's events.
func (f *fleet) intruders(ctx context.Context, t *testing.T, old map[domain.SiteID]string) {
	a := f.places["a"]
	bridge := f.bridge(ctx, t, a)
	begun := time.Now()
	for i, who := range f.whoever(ctx, t, old) {
		t.Run(who.name, func(t *testing.T) {
			from := a.at(201 + i)
			if _, err := command(ctx, "ip", "address", "add", from+"/32", "dev", bridge); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = command(context.WithoutCancel(ctx), "ip", "address", "del", from+"/32", "dev", bridge) })
			if nc, err := f.dial(a, who.papers, from); !refused(err) {
				if nc != nil {
					nc.Close()
				}
				t.Fatalf("not refused: %v", err)
			} else {
				t.Logf("refused: %v", err)
			}
			f.isTold(ctx, t, a, who, from, begun)
		})
	}
	good, err := papersOf(a.files("secrets"), "dns")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := f.dial(a, good, "")
	if err != nil {
		t.Fatalf("with right papers it is refused, too: %v", err)
	}
	nc.Close()
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.whole(ctx, at); err != nil {
		t.Fatal(err)
	}
	f.nothingMoved(t, begun)
}

// whoever are all kinds of them.
func (f *fleet) whoever(ctx context.Context, t *testing.T, old map[domain.SiteID]string) []intruder {
	t.Helper()
	secrets := f.places["a"].files("secrets")
	take := func(dir string) papers {
		p, err := papersOf(dir, "dns")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, over, stale := take(secrets), take(f.expired(ctx, t)), take(old["a"])
	strange := take(f.stranger(t))
	right, err := identity.Open(secrets, "dns")
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := identity.Open(f.stranger(t), "dns")
	if err != nil {
		t.Fatal(err)
	}
	const handshake, login = "TLS Handshake Failure", "Authentication Failure"
	return []intruder{
		{"without a certificate", papers{roots: good.roots, user: good.user}, handshake, "client didn't provide a certificate"},
		{"with a certificate of another CA", papers{cert: strange.cert, roots: good.roots, user: good.user}, handshake, "certificate signed by unknown authority"},
		{"with a certificate of the right CA that has expired", papers{cert: over.cert, roots: good.roots, user: good.user}, handshake, "certificate has expired"},
		{"with a right certificate and no user", papers{cert: good.cert, roots: good.roots}, login, "authentication error"},
		{"with a right certificate and token and another's key", papers{cert: good.cert, roots: good.roots,
			user: nats.UserJWT(func() (string, error) { return right.UserJWT("a") }, wrong.SignNonce)}, login, "authentication error"},
		{"with a right certificate and a token of another installation", papers{cert: good.cert, roots: good.roots, user: strange.user}, login, "authentication error"},
		{"with a right certificate and credentials that were revoked", papers{cert: good.cert, roots: good.roots, user: stale.user}, login, "authentication error"},
		{"with all of the papers that were revoked", stale, login, "authentication error"},
	}
}

// isTold waits for the line in the server's log and for the event in the site's stream.
func (f *fleet) isTold(ctx context.Context, t *testing.T, p *place, who intruder, from string, since time.Time) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := f.container(ctx, p, "nats")
	if err != nil {
		t.Fatal(err)
	}
	if err := await(ctx, "the server's log to say why", 300*time.Millisecond, func() (bool, string) {
		out, err := exec.CommandContext(ctx, "docker", "logs", "--since", since.UTC().Format(time.RFC3339), c.ID).CombinedOutput()
		if err != nil {
			return false, err.Error()
		}
		lines := ""
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, from+":") {
				lines += line
			}
			if strings.Contains(line, from+":") && strings.Contains(line, who.logged) {
				t.Logf("the server's log: %s", strings.TrimSpace(line))
				return true, ""
			}
		}
		return false, lines
	}); err != nil {
		t.Error(err)
	}
	op := f.as(t, p, access.Operator)
	if err := await(ctx, "the event hf.v1.link.refused from "+from, 300*time.Millisecond, func() (bool, string) {
		_, all, err := f.stored(ctx, p, op)
		if err != nil {
			return false, err.Error()
		}
		said := ""
		for _, e := range all {
			r, ok := factOf(e).(*event.LinkRefused)
			if !ok || e.Time.Before(since) {
				continue
			}
			said += fmt.Sprintf("%s %s; ", r.Address, r.Reason)
			if r.Address == from && r.Reason == who.reason && r.Site == p.id && r.Count == 1 {
				t.Logf("the event: %s", e.Data)
				return true, ""
			}
		}
		return false, said
	}); err != nil {
		t.Error(err)
	}
}

// expired is a folder of secrets whose certificates are over, made with the founder's own CA by whoever got at a copy of it.
func (f *fleet) expired(ctx context.Context, t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []string{"ca", "secrets"} {
		if _, err := command(ctx, "cp", "-a", f.places["a"].files(part), dir); err != nil {
			t.Fatal(err)
		}
	}
	auth, err := identity.OpenAuthority(dir, identity.Options{NotBefore: time.Now().Add(-48 * time.Hour), Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	card, err := identity.Renew(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := auth.Reissue(false, card)
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Install(dir, inst); err != nil {
		t.Fatal(err)
	}
	return identity.SecretsDir(dir)
}

// stranger is a folder of secrets of another installation, with the same names.
func (f *fleet) stranger(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := identity.Found(dir, identity.Spec{Cluster: "main", Site: "a", Role: domain.SiteData, Index: 1, Addresses: []string{"nats-a"},
		NATS: "tls://nats-a:4222", Hosts: f.hosts("a")}, identity.Options{}); err != nil {
		t.Fatal(err)
	}
	return identity.SecretsDir(dir)
}

// bridge is the device of a site's own network on this machine.
func (f *fleet) bridge(ctx context.Context, t *testing.T, p *place) string {
	t.Helper()
	id, err := docker(ctx, "network", "inspect", "--format", "{{.Id}}", p.siteNetwork())
	if err != nil {
		t.Fatal(err)
	}
	name := "br-" + id[:12]
	if _, err := os.Stat(filepath.Join("/sys/class/net", name)); err != nil {
		t.Fatal(err)
	}
	return name
}
