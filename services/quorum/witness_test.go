package quorum_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// installed makes the folders of two sites of an installation, as holdfast site init and join do, and gives its authority and what each
// site's quorum service shows.
func installed(t *testing.T, cluster string) (ca []byte, show func(domain.SiteID) tls.Certificate) {
	t.Helper()
	dirs := map[domain.SiteID]string{"a": t.TempDir(), "b": t.TempDir()}
	spec := func(id domain.SiteID, index int) identity.Spec {
		return identity.Spec{Cluster: cluster, Site: id, Role: domain.SiteData, Index: index, Addresses: []string{"127.0.0.1"}, NATS: "tls://127.0.0.1:4222"}
	}
	cardA, err := identity.Found(dirs["a"], spec("a", 1), identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cardB, err := identity.NewSite(dirs["b"], spec("b", 2), &cardA)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := identity.OpenAuthority(dirs["a"], identity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	inst, err := auth.Admit(cardB)
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.Install(dirs["b"], inst); err != nil {
		t.Fatal(err)
	}
	return []byte(inst.CA), func(id domain.SiteID) tls.Certificate {
		creds, err := identity.Open(identity.SecretsDir(dirs[id]), api.ServiceQuorum)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := creds.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
}

// Two installations have groups and sites of the same names, and the same witness. One loses the site that serves.
func TestTwoInstallationsOnOneWitnessLoseNothingOfOneAnother(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	if _, err := witness.Make(keys, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(keys, witness.CertificateFile), filepath.Join(keys, witness.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := witness.At{URL: "https://" + ln.Addr().String(), CA: filepath.Join(keys, witness.CertificateFile)}
	cfg := witness.Config{Dir: t.TempDir(), MirrorDir: t.TempDir(), Certificate: cert}
	shows := map[string]func(domain.SiteID) tls.Certificate{}
	for _, name := range []string{"one", "two"} {
		ca, show := installed(t, name)
		cfg.Clusters, shows[name] = append(cfg.Clusters, witness.Cluster{Name: name, CA: ca, Quota: witness.DefaultQuota()}), show
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- witness.Run(ctx, cfg, witness.Deps{Listener: ln}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	start := func(name string) *cluster {
		voters := []quorum.Voter{node("a"), node("b"), {Member: core.Member{ID: witness.Voter, Kind: core.KindWitness}, Witness: at}}
		return startCluster(&cluster{t: t, model: core.NodeAndShareMajority, voters: voters, name: name, show: shows[name]}, "a", "b")
	}
	one, two := start("one"), start("two")
	lost, kept := one.sites["a"].acquire(), two.sites["a"].acquire()
	for _, c := range []*cluster{one, two} {
		c.await("the witness has voted", func() bool {
			_, err := os.Stat(filepath.Join(cfg.Dir, "votes", c.name, "erp.vote"))
			return err == nil
		})
	}
	one.sites["a"].kill()
	one.isolate("a", true)
	if next := one.sites["b"].acquire(); next.Epoch <= lost.Epoch || next.Holder != "b" {
		t.Errorf("one: %+v after epoch %s", next, lost.Epoch)
	}
	if now, _, err := two.sites["a"].lease(kept.Epoch); err != nil || !now.Held || now.Epoch != kept.Epoch {
		t.Errorf("two lost its lease: %+v, %v", now, err)
	}
	st, err := bus.Call[api.QuorumStatus](t.Context(), two.sites["b"].client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
	if err != nil || st.Voters[2].ID != "witness" || !st.Voters[2].Reachable {
		t.Errorf("two's status: %+v, %v", st.Voters, err)
	}
}
