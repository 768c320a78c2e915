//go:build e2e_compose

package compose

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

const (
	appendLimit = 3 * time.Second // an append's longest while keys are renewed: half a lease
	renewLimit  = 90 * time.Second
)

// load appends to the workload's log without pause, tries nothing twice, and remembers what failed.
type load struct {
	stop   func()
	mu     sync.Mutex
	done   int
	failed []string
	worst  time.Duration
	at     time.Time // when the worst was
}

func (f *fleet) load(ctx context.Context, at domain.SiteID) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	client := &http.Client{Timeout: 20 * time.Second}
	over := make(chan struct{})
	wg.Go(func() {
		defer client.CloseIdleConnections()
		pause := time.NewTicker(20 * time.Millisecond)
		defer pause.Stop()
		for {
			select {
			case <-over:
				return
			case <-pause.C:
			}
			begun := time.Now()
			err := appendOnce(ctx, client, fmt.Sprintf("http://%s:%d/append", f.places[at].at(20), vmPort))
			l.mu.Lock()
			if took := time.Since(begun); took > l.worst {
				l.worst, l.at = took, begun
			}
			if l.done++; err != nil {
				l.failed = append(l.failed, begun.UTC().Format(time.RFC3339Nano)+" "+err.Error())
			}
			l.mu.Unlock()
		}
	})
	l.stop = sync.OnceFunc(func() {
		close(over)
		wg.Wait()
		cancel()
	})
	return l
}

func appendOnce(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("written while keys are renewed"))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// rotated carries out docs/operations/install.md, "Renewing keys and certificates", as somebody would who pastes one command
// after the other, and keeps a copy of what was before.
func (f *fleet) rotated(ctx context.Context, t *testing.T, old map[domain.SiteID]string) {
	for id, p := range f.places {
		old[id] = f.copied(ctx, t, p)
	}
	f.withoutLoss(ctx, t, func() {
		f.renewAll(ctx, t)
		f.retire(ctx, t)
	}, old)
	for id := range f.places {
		for _, name := range access.Services(f.places[id].role, f.hosts(id)) {
			f.isRefused(t, old[id], id, name)
		}
	}
}

// newAuthority replaces the CA, and everything that it signed.
func (f *fleet) newAuthority(ctx context.Context, t *testing.T) {
	old := map[domain.SiteID]string{}
	for id, p := range f.places {
		old[id] = f.copied(ctx, t, p)
	}
	f.withoutLoss(ctx, t, func() {
		f.run(ctx, t, "site", "rotate", "--dir", "/work/a", "--ca")
		f.joinOthers(ctx, t)
		f.reload(ctx, t)
		f.renewAll(ctx, t)
		f.retire(ctx, t)
	}, old)
	for id, p := range f.places {
		was, err := os.ReadFile(old[id] + "/trust/ca.pem")
		if err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(p.files("secrets", "trust", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		if _, more := pem.Decode(now); len(more) != 0 || fingerprintOf(string(was)) == fingerprintOf(string(now)) {
			t.Errorf("site %s trusts:\n%s", id, now)
		}
		// The old certificate no longer opens even the way to the user's token.
		stale, err := papersOf(old[id], access.Reader)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := papersOf(p.files("secrets"), access.Reader)
		if err != nil {
			t.Fatal(err)
		}
		stale.roots, stale.user = fresh.roots, fresh.user
		if nc, err := f.dial(p, stale, ""); !refused(err) || errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("site %s takes a certificate of the old CA: %v %v", id, nc != nil, err)
		}
	}
}

// withoutLoss does what renews keys while appends go on, and wants every append acknowledged in time, nothing moved, no lease
// lost, every server and every connection with its new certificate and key, and the installation whole.
func (f *fleet) withoutLoss(ctx context.Context, t *testing.T, renew func(), old map[domain.SiteID]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, err := f.watch.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := all[at].copyAt()
	f.everybodyShows(ctx, t, old, false)
	begun := time.Now()
	l := f.load(ctx, at)
	defer l.stop()
	renew()
	t.Logf("the commands took %.1f s", time.Since(begun).Seconds())
	f.everybodyShows(ctx, t, old, true)
	t.Logf("%.1f s after the first command every connection is made with new keys", time.Since(begun).Seconds())
	if err := f.whole(ctx, at); err != nil {
		t.Fatal(err)
	}
	l.stop()
	t.Logf("%d appends, %d failed, the longest took %.0f ms, at +%.1f s", l.done, len(l.failed), l.worst.Seconds()*1000, l.at.Sub(begun).Seconds())
	if len(l.failed) > 0 || l.done < 100 {
		t.Errorf("of %d appends failed %d: %s", l.done, len(l.failed), strings.Join(l.failed, "\n"))
	}
	if l.worst > appendLimit {
		t.Errorf("an append took %v, begun %s, want at most %v", l.worst, l.at.UTC().Format(time.RFC3339Nano), appendLimit)
	}
	if all, err = f.watch.status(ctx); err != nil {
		t.Fatal(err)
	}
	if now, _ := all[at].copyAt(); now.Epoch != before.Epoch {
		t.Errorf("the epoch was %s and is %s", before.Epoch, now.Epoch)
	}
	f.uneventful(ctx, t, begun)
	f.nothingMoved(t, begun)
	f.judge(ctx, t, at)
}

// uneventful looks into every site's own stream: no lease changed hands or was lost, the target was never without the writes,
// nobody took a rotation for a disaster.
func (f *fleet) uneventful(ctx context.Context, t *testing.T, since time.Time) {
	t.Helper()
	for id, p := range f.places {
		_, all, err := f.stored(ctx, p, f.as(t, p, access.Operator))
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, e := range all {
			kind := strings.TrimPrefix(e.Type, "hf.v1.")
			if e.Time.Before(since) {
				continue
			}
			kinds[kind]++
			if strings.HasPrefix(kind, "disaster.") || strings.HasPrefix(kind, "run.") || slices.Contains([]string{"group.lease_lost", "group.lease_released", "group.epoch_granted", "group.target_lost"}, kind) {
				t.Errorf("site %s stored %s at %s: %s", id, kind, e.Time.Format(time.RFC3339Nano), e.Data)
			}
		}
		t.Logf("site %s stored meanwhile %v", id, kinds)
	}
}

// everybodyShows waits until every server shows the certificate that its site's folder has, and everybody connected to it
// the certificate and the user key of theirs; fresh: and none of these is in the copies of before.
func (f *fleet) everybodyShows(ctx context.Context, t *testing.T, old map[domain.SiteID]string, fresh bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	was, now := map[string]string{}, map[string]string{}
	for _, dir := range old {
		inst, err := identity.ReadInstallation(dir + "/trust/installation.json")
		if err != nil {
			t.Fatal(err)
		}
		shown(inst, was)
	}
	inst := f.installed(t, f.places["a"])
	shown(inst, now)
	for sum, who := range now {
		if _, stayed := was[sum]; stayed == fresh {
			t.Errorf("%s of %s was there before: %v", sum, who, stayed)
		}
	}
	for id, p := range f.places {
		if got := f.installed(t, p); got.Serial != inst.Serial {
			t.Fatalf("site %s has installation %d, site a %d", id, got.Serial, inst.Serial)
		}
		site, _ := inst.Site(id)
		monitor := f.as(t, p, access.Monitor)
		if err := await(ctx, "everybody at site "+string(id)+" to show new papers", 500*time.Millisecond, func() (bool, string) {
			if sum, err := f.served(p); err != nil || sum != fingerprintOf(site.Issued[identity.ServerName].Certificate) {
				return false, fmt.Sprintf("the server shows %s (%v)", sum, err)
			}
			return f.connectedWith(monitor, now)
		}); err != nil {
			t.Error(err)
		}
		monitor.Close()
	}
}

// shown gathers what an installation's principals show: fingerprints of certificates, and public user keys.
func shown(inst identity.Installation, into map[string]string) {
	for _, s := range inst.Sites {
		for name, is := range s.Issued {
			into[fingerprintOf(is.Certificate)] = string(s.Site) + "." + name
			if is.User != "" {
				into[is.User] = string(s.Site) + "." + name
			}
		}
	}
}

func (f *fleet) connectedWith(monitor *nats.Conn, now map[string]string) (bool, string) {
	all, err := f.connections(monitor)
	if err != nil {
		return false, err.Error()
	}
	var left []string
	from := map[string]bool{}
	for _, c := range all {
		if len(c.Certs) == 0 || now[c.Certs[0].Sum] == "" || now[c.Certs[0].Sum] != now[c.User] {
			left = append(left, fmt.Sprintf("%s user %s %v", c.Name, c.User, c.Certs))
		}
		from[now[c.User]] = true
	}
	for _, who := range []string{"a.quorum", "b.quorum", "w.quorum", "a.health", "b.replicator", "a.failover", "b.dns"} {
		if !from[who] {
			left = append(left, who+" is not connected")
		}
	}
	return len(left) == 0, strings.Join(left, "; ")
}

// isRefused wants a principal's papers of before refused at every site's server.
func (f *fleet) isRefused(t *testing.T, secrets string, of domain.SiteID, name string) {
	t.Helper()
	creds, err := identity.Open(secrets, name)
	if err != nil {
		t.Fatal(err)
	}
	for id, p := range f.places {
		stale, err := papersOf(secrets, name)
		if err != nil {
			t.Fatal(err)
		}
		if name == access.Monitor && id != of {
			continue // it has no token for another site
		}
		stale.user = nats.UserJWT(func() (string, error) { return creds.UserJWT(id) }, creds.SignNonce)
		if nc, err := f.dial(p, stale, ""); !refused(err) {
			t.Errorf("site %s takes the old papers of %s.%s: %v", id, of, name, err)
			if nc != nil {
				nc.Close()
			}
		}
	}
}

// renewAll gives every site new keys and certificates: theirs by card, the founder's at once.
func (f *fleet) renewAll(ctx context.Context, t *testing.T) {
	t.Helper()
	f.run(ctx, t, "site", "rotate", "--dir", "/work/b")
	f.run(ctx, t, "site", "rotate", "--dir", "/work/w")
	f.run(ctx, t, "site", "join", "--dir", "/work/a", "/work/b/rotate/b.card.json", "/work/w/rotate/w.card.json")
	f.run(ctx, t, "site", "rotate", "--dir", "/work/a")
	f.joinOthers(ctx, t)
	f.reload(ctx, t)
}

// retire has what was replaced refused.
func (f *fleet) retire(ctx context.Context, t *testing.T) {
	t.Helper()
	f.run(ctx, t, "site", "rotate", "--dir", "/work/a", "--retire")
	f.joinOthers(ctx, t)
	f.reload(ctx, t)
}

func (f *fleet) run(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	if err := f.in.holdfast(ctx, args...); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) joinOthers(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, id := range []string{"b", "w"} {
		f.run(ctx, t, "site", "join", "--dir", "/work/"+id, "/work/a/installation.json")
	}
}

// reload tells every site's server that its files have changed.
func (f *fleet) reload(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, id := range []domain.SiteID{"a", "b", "w"} {
		if err := f.compose(ctx, f.places[id], "kill", "-s", "HUP", "nats"); err != nil {
			t.Fatal(err)
		}
	}
}

// copied is a copy of a site's secrets, as somebody may have one.
func (f *fleet) copied(ctx context.Context, t *testing.T, p *place) string {
	t.Helper()
	dir, err := os.MkdirTemp(f.in.dir, "copy-"+string(p.id)+"-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := command(ctx, "cp", "-a", p.files("secrets")+"/.", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (f *fleet) hosts(id domain.SiteID) []domain.HostID {
	if !f.places[id].data() {
		return nil
	}
	return []domain.HostID{f.places[id].host()}
}
