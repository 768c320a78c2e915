package witness_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/tls"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

func TestClustersOnOneWitnessAreApart(t *testing.T) {
	h := newHouse(t, []string{"one", "two"}, nil)
	one, two := h.client("one", "a"), h.client("two", "b")
	for _, verb := range []core.Verb{core.Prepare, core.Accept} {
		ask(t, one, ballot("one", "erp", verb, "a", 5, 1), core.OK)
		ask(t, two, ballot("two", "erp", verb, "b", 3, 1), core.OK) // a lower epoch: another record
	}
	if got := ask(t, two, ballot("two", "erp", core.Probe, "b", 0, 0), core.OK); got.VHolder != "b" || got.VEpoch != domain.NewEpoch(0, 3, 2) {
		t.Errorf("two reads %+v", got)
	}
	for name, b := range map[string]witness.Ballot{
		`ballot of cluster "one" on the certificate of cluster two`: ballot("one", "erp", core.Probe, "b", 0, 0),
		`ballot of site "a" on the certificate of site b`:           ballot("two", "erp", core.Accept, "a", 9, 1),
		`ballot for group "../one/erp"`:                             ballot("two", "../one/erp", core.Probe, "b", 0, 0),
	} {
		if _, err := two.Ask(t.Context(), b); err == nil || errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
	if got := ask(t, one, ballot("one", "erp", core.Probe, "a", 0, 0), core.OK); got.VHolder != "a" || got.VEpoch != domain.NewEpoch(0, 5, 1) {
		t.Errorf("one reads %+v", got)
	}
}

func TestWhoProvesNoClusterIsNotHeard(t *testing.T) {
	h := newHouse(t, []string{"one", "two"}, nil)
	stranger := newAuthority(t, "CA of one") // the same name, another key
	expired := h.cas["one"].issue(t, "a.quorum", x509.ExtKeyUsageClientAuth)
	key := newKey(t)
	leaf := sign(t, &x509.Certificate{Subject: expired.Leaf.Subject, NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: expired.Leaf.ExtKeyUsage}, h.cas["one"].cert, key, h.cas["one"].key)
	for name, cert := range map[string]tls.Certificate{
		"a stranger":      stranger.issue(t, "a.quorum", x509.ExtKeyUsageClientAuth),
		"another service": h.cas["one"].issue(t, "a.replicator", x509.ExtKeyUsageClientAuth),
		"a server's":      h.cas["one"].issue(t, "a.quorum", x509.ExtKeyUsageServerAuth),
		"expired":         {Certificate: [][]byte{leaf.Raw}, PrivateKey: key},
	} {
		if _, err := h.with(cert, 0).Ask(t.Context(), ballot("one", "erp", core.Probe, "a", 0, 0)); !errors.Is(err, domain.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(h.cfg.Dir, "votes"))
	if err != nil || len(entries) != 0 {
		t.Errorf("records were made: %v, %v", entries, err)
	}
}

func TestAClusterOverItsQuotaIsRefusedByNameAndNobodyElse(t *testing.T) {
	h := newHouse(t, []string{"calm", "groups", "votes", "bytes", "doors"}, func(cluster string, q *witness.Quota) {
		switch cluster {
		case "groups":
			q.Groups = 2
		case "votes":
			q.Votes, q.Groups = 10, 1
		case "bytes":
			q.Bytes = 1
		case "doors":
			q.Connections = 1
		}
	})
	refused := func(cluster, what string, f func() error) {
		t.Helper()
		for range 5000 {
			if err := f(); err != nil {
				if want := "cluster " + cluster + " is over its quota of " + what; !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
				return
			}
		}
		t.Errorf("cluster %s never reached its quota of %s", cluster, what)
	}
	asking := func(cluster string, group func() string) func() error {
		c := h.client(cluster, "a")
		return func() error {
			_, err := c.Ask(t.Context(), ballot(cluster, group(), core.Probe, "a", 0, 0))
			return err
		}
	}
	erp := func() string { return "erp" }
	n := 0
	refused("groups", "2 groups", asking("groups", func() string { n++; return fmt.Sprint("g", n) }))
	if n != 3 {
		t.Errorf("the %dth group was refused", n)
	}
	ask(t, h.client("groups", "a"), ballot("groups", "g1", core.Probe, "a", 0, 0), core.OK)
	refused("votes", "10 votes a second", asking("votes", erp))
	big := strings.Repeat("x", 12<<10)
	refused("bytes", "1 bytes a second", asking("bytes", func() string { return big[:32] }))
	first := asking("doors", erp)
	if err := first(); err != nil {
		t.Fatal(err)
	}
	refused("doors", "1 connections", asking("doors", erp))
	ask(t, h.client("calm", "a"), ballot("calm", "erp", core.Probe, "a", 0, 0), core.OK)
	if !strings.Contains(h.log.String(), "cluster=votes") || strings.Contains(h.log.String(), "cluster=calm") {
		t.Errorf("the log:\n%s", h.log)
	}
}

func TestAWitnessThatWasStartedAgainKnowsWhatItGranted(t *testing.T) {
	h := newHouse(t, []string{"one"}, func(_ string, q *witness.Quota) { q.Groups = 1 })
	c := h.client("one", "a")
	ask(t, c, ballot("one", "erp", core.Prepare, "a", 1, 0), core.OK)
	ask(t, c, ballot("one", "erp", core.Accept, "a", 1, 1), core.OK)
	h.stop()
	if _, err := c.Ask(t.Context(), ballot("one", "erp", core.Renew, "a", 1, 2)); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("while it is down: %v", err)
	}
	h.start()
	if got := ask(t, h.client("one", "b"), ballot("one", "erp", core.Probe, "b", 0, 0), core.Busy); got.VHolder != "a" || got.Remaining > time.Minute {
		t.Errorf("after its restart: %+v", got)
	}
	ask(t, h.client("one", "a"), ballot("one", "erp", core.Renew, "a", 1, 3), core.OK)
	if _, err := h.client("one", "a").Ask(t.Context(), ballot("one", "crm", core.Probe, "a", 0, 0)); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("the groups of before count: %v", err)
	}
}

func TestTwoClustersOfOneAuthorityAreRefused(t *testing.T) {
	h := newHouse(t, []string{"one"}, nil)
	for want, change := range map[string]func(*witness.Config){
		"same authority": func(c *witness.Config) {
			c.Clusters = append(c.Clusters, witness.Cluster{Name: "two", CA: c.Clusters[0].CA, Quota: witness.DefaultQuota()})
		},
		"twice": func(c *witness.Config) {
			c.Clusters = append(c.Clusters, witness.Cluster{Name: "one", CA: newAuthority(t, "x").pem(), Quota: witness.DefaultQuota()})
		},
		"not a name":     func(c *witness.Config) { c.Clusters[0].Name = "../x" },
		"no certificate": func(c *witness.Config) { c.Clusters[0].CA = []byte("text") },
		"votes 0":        func(c *witness.Config) { c.Clusters[0].Quota.Votes = 0 },
	} {
		cfg := h.cfg
		cfg.Dir, cfg.Clusters = t.TempDir(), append([]witness.Cluster(nil), h.cfg.Clusters...)
		change(&cfg)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := witness.Run(t.Context(), cfg, witness.Deps{Listener: ln}); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		_ = ln.Close()
	}
}

func TestRenewalsTravelTogetherAndAreNotSentTwice(t *testing.T) {
	var requests, ballots atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Ballots []witness.Ballot }
		raw, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(raw, &in) != nil {
			t.Errorf("%v, %s", err, raw)
		}
		requests.Add(1)
		ballots.Add(int32(len(in.Ballots)))
		type answer struct{ Response core.Response }
		out := struct{ Answers []answer }{}
		for _, b := range in.Ballots {
			out.Answers = append(out.Answers, answer{core.Response{Voter: witness.Voter, Nonce: b.Nonce}})
		}
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := witness.NewClient(t.Context(), witness.At{URL: srv.URL, CA: ca}, func() (tls.Certificate, error) { return tls.Certificate{}, nil }, time.Minute, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	const groups = 200
	var wg sync.WaitGroup
	for i := range groups {
		wg.Go(func() {
			b := ballot("one", fmt.Sprint("g", i), core.Renew, "a", 1, 1)
			b.Nonce = uint64(i)
			if r, err := c.Ask(t.Context(), b); err != nil || r.Nonce != uint64(i) {
				t.Errorf("group %d: %+v, %v", i, r, err)
			}
		})
	}
	wg.Wait()
	if r, n := requests.Load(), ballots.Load(); n != groups || r > groups/10 {
		t.Errorf("%d ballots in %d requests", n, r)
	}
}

// Each cluster renews three groups of its own, the same names in all of them, while one floods.
func TestTwentyClustersRenewWhileOneFloods(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("c", i))
	}
	h := newHouse(t, append(names, "hostile"), func(cluster string, q *witness.Quota) {
		if cluster == "hostile" {
			*q = witness.Quota{Groups: 3, Votes: 20, Bytes: 64 << 10, Connections: 4}
		}
	})
	done := make(chan struct{})
	var flood, calm sync.WaitGroup
	var over atomic.Int32
	flooder := h.client("hostile", "a")
	for range 8 {
		flood.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if _, err := flooder.Ask(t.Context(), ballot("hostile", fmt.Sprint("g", n%5), core.Prepare, "a", n, 1)); errors.Is(err, domain.ErrRefused) && strings.Contains(err.Error(), "cluster hostile is over its quota") {
					over.Add(1)
				}
			}
		})
	}
	for _, name := range names {
		calm.Go(func() {
			c := h.client(name, "a")
			for g := range 3 {
				ask(t, c, ballot(name, fmt.Sprint("g", g), core.Prepare, "a", 1, 0), core.OK)
				ask(t, c, ballot(name, fmt.Sprint("g", g), core.Accept, "a", 1, 1), core.OK)
			}
			for seq := range uint64(5) {
				for g := range 3 {
					ask(t, c, ballot(name, fmt.Sprint("g", g), core.Renew, "a", 1, seq+2), core.OK)
				}
			}
		})
	}
	calm.Wait()
	end := time.Now().Add(time.Minute)
	for over.Load() == 0 && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond) // it is refused once its burst is used up
	}
	close(done)
	flood.Wait()
	if over.Load() == 0 {
		t.Error("the flood was never refused by name")
	}
}
