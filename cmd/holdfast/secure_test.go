package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// secured is an installation with certificates, credentials and permissions, each site in this process.
type secured struct {
	t     *testing.T
	files map[string]string
	cfgs  map[string]config.Config
	log   *keptLog
	stops map[string]func()
}

// keptLog keeps warnings.
type keptLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (k *keptLog) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.buf.Write(p)
}

// lines are the lines that contain any of the parts.
func (k *keptLog) lines(parts ...string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for l := range strings.Lines(k.buf.String()) {
		for _, p := range parts {
			if strings.Contains(strings.ToLower(l), p) {
				out = append(out, l)
				break
			}
		}
	}
	return out
}

func securedInstallation(t *testing.T) *secured {
	t.Helper()
	var b [2]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	net := fmt.Sprintf("127.%d.%d", 20+int(b[0])%200, b[1])
	s := &secured{t: t, files: map[string]string{}, cfgs: map[string]config.Config{}, log: &keptLog{}, stops: map[string]func(){}}
	root := t.TempDir()
	for _, name := range []string{"a", "b", "w"} {
		sample, err := os.ReadFile("../../deploy/examples/site-" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("127.0.0.1", net+".1", "127.0.11.", net+".1", "127.0.12.", net+".2", "256MiB", "16MiB", "hold_down: 30s", "hold_down: 1s",
			"nats://", "tls://").Replace(string(sample))
		text = strings.Replace(text, "\nreplication: {}", "", 1)
		if name != "w" {
			text += fmt.Sprintf("replication: {listen: '%s.1:%d'}\n", net, map[string]int{"a": 4231, "b": 4232}[name])
		}
		text = strings.Replace(text, "\nnats:\n", "\nsecurity:\n  secrets: ./"+name+"/secrets\nnats:\n  conf: ./"+name+"/nats.conf\n", 1)
		s.files[name] = filepath.Join(root, "site-"+name+".yaml")
		if err := os.WriteFile(s.files[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.join(root, net+".1")
	for name, file := range s.files {
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		s.cfgs[name] = cfg
	}
	return s
}

// join founds the installation at a and admits the others.
func (s *secured) join(root, address string) {
	s.t.Helper()
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	spec := func(id domain.SiteID, index int, role domain.SiteRole, hosts ...domain.HostID) identity.Spec {
		return identity.Spec{Cluster: "main", Site: id, Role: role, Index: index, Addresses: []string{address}, Hosts: hosts}
	}
	dir := func(name domain.SiteID) string { return filepath.Join(root, string(name)) }
	cardA, err := identity.Found(dir("a"), spec("a", 1, domain.SiteData, "a-h1", "a-h2"), identity.Options{})
	must(err)
	cardB, err := identity.NewSite(dir("b"), spec("b", 2, domain.SiteData, "b-h1", "b-h2"), &cardA)
	must(err)
	cardW, err := identity.NewSite(dir("w"), spec("w", 3, domain.SiteWitness), &cardA)
	must(err)
	auth, err := identity.OpenAuthority(dir("a"), identity.Options{})
	must(err)
	inst, err := auth.Admit(cardB, cardW)
	must(err)
	for _, name := range []domain.SiteID{"a", "b", "w"} {
		must(identity.Install(dir(name), inst))
		secrets := identity.SecretsDir(dir(name))
		text, err := natsd.Conf(inst, name, natsd.ConfFiles{Listen: "127.0.0.1:0", StoreDir: filepath.Join(dir(name), "nats"),
			Cert: filepath.Join(secrets, "nats", "server.pem"), Key: filepath.Join(secrets, "nats", "server.key"), CA: filepath.Join(secrets, "trust", "ca.pem")})
		must(err)
		must(os.WriteFile(filepath.Join(dir(name), "nats.conf"), []byte(text), 0o600))
	}
}

func (s *secured) start(name string) {
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan struct{})
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	go func() {
		defer close(ended)
		if err := site.Run(ctx, s.cfgs[name], site.Options{Logger: log}); err != nil {
			s.t.Errorf("site %s: %v", name, err)
		}
	}()
	s.stops[name] = sync.OnceFunc(func() { cancel(); <-ended })
	s.t.Cleanup(s.stops[name])
}

func (s *secured) noViolation(during string) {
	s.t.Helper()
	if bad := s.log.lines("violation", "request refused", "may not publish", "no tls with the sender"); len(bad) > 0 {
		s.t.Fatalf("during %s:\n%s", during, strings.Join(bad, ""))
	}
}

// proveLines wants lines to be offered by a replicator that shows who it is, and none to be refused.
func (s *secured) proveLines() {
	s.t.Helper()
	for _, name := range []string{"a", "b"} {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // who it says it is, is what is asked here
		c, err := d.DialContext(s.t.Context(), "tcp", s.cfgs[name].Replication.Listen)
		if err != nil {
			s.t.Fatalf("lines of site %s: %v", name, err)
		}
		if who := c.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; who != name+"."+api.ServiceReplicator {
			s.t.Errorf("lines of site %s are taken by %s", name, who)
		}
		_ = c.Close()
	}
	for _, l := range s.log.lines("no line to the target") {
		if strings.Contains(l, domain.ErrRefused.Error()) {
			s.t.Error(l)
		}
	}
}

// order has a planned move made, at a moment when no other run is under way. On a machine that stalls for longer than a lease
// lasts a site loses the group by itself, and a move is rightly refused: then, and only then, it is ordered again, as a person
// would.
func (s *secured) order(kind, from, to, reason string) {
	s.t.Helper()
	const stalls = "deadline passed"
	for {
		s.awaitCalm()
		before := len(s.log.lines(stalls))
		o := holdfast(s.t.Context(), "run", "start", "--plan", "main", "--kind", kind, "--from", from, "--to", to, "--reason", reason, "--by", "tester", "--config", s.files["a"], "--output", "json")
		var r api.Run
		if o.code == 0 && json.Unmarshal([]byte(o.stdout), &r) == nil && r.State == api.StepDone {
			return
		}
		if o.code != 3 || len(s.log.lines(stalls)) == before {
			s.t.Fatalf("%s from %s to %s: exit %d, %v: %s", kind, from, to, o.code, o.err, o.stdout)
		}
		s.t.Logf("%s from %s to %s is ordered again, for this machine stalled: %v", kind, from, to, o.err)
		awaitGroup(s.t, s.files[from], domain.SiteID(from))
	}
}

// awaitCalm waits until no run is under way at either data site, and both know the same of where groups are: what one site has
// finished, the other learns a moment later.
func (s *secured) awaitCalm() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last [2]string
	for {
		var known [2]string
		calm := true
		for i, at := range []string{"a", "b"} {
			runs := holdfast(ctx, "run", "list", "--site", at, "--config", s.files["a"], "--output", "json")
			groups := holdfast(ctx, "group", "list", "--site", at, "--config", s.files["a"], "--output", "json")
			var r api.RunList
			var g api.GroupList
			if json.Unmarshal([]byte(runs.stdout), &r) != nil || json.Unmarshal([]byte(groups.stdout), &g) != nil || len(g.Groups) != 1 {
				calm = false
				continue
			}
			calm = calm && !slices.ContainsFunc(r.Runs, func(x api.Run) bool { return x.State == api.StepRunning })
			known[i] = fmt.Sprint(g.Groups[0].Site, g.Groups[0].Epoch)
			last[i] = fmt.Sprintf("%s; runs %s", known[i], runs.stdout)
		}
		if calm && known[0] == known[1] {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("the sites never came to rest: what they know of the group: %v", last)
		}
	}
}

// TestSecuredInstallationStartsMovesFailsOverAndComesBack proves that the permissions of pkg/access are enough: nothing is
// refused while the product does all that it does.
func TestSecuredInstallationStartsMovesFailsOverAndComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: three secured sites for half a minute; run without -short")
	}
	s := securedInstallation(t)
	t.Cleanup(func() {
		if t.Failed() {
			all := s.log.lines("")
			t.Log(strings.Join(all[:min(len(all), 80)], ""))
		}
	})
	for _, name := range []string{"a", "b", "w"} {
		s.start(name)
	}
	awaitGroup(t, s.files["a"], "a")
	s.noViolation("start")
	s.proveLines()
	s.policy("async")
	s.policy("sync")
	s.checkAudit("a", "a.operator", "group_set", "tester", "to sync")
	s.volumes()
	s.noViolation("policy")
	s.order("switchover", "a", "b", "a test")
	awaitGroup(t, s.files["b"], "b")
	s.noViolation("switchover")
	s.stops["b"]() // loss of power; the policy is automatic
	awaitServing(t, s.files["a"], "a")
	if o := holdfast(t.Context(), "status", "--config", s.files["a"], "--output", "json"); o.code != 4 || !json.Valid([]byte(o.stdout)) || !strings.Contains(o.err.Error(), "site b") {
		t.Errorf("status without site b: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	s.noViolation("failover")
	s.start("b")
	awaitGroup(t, s.files["a"], "a") // reprotected
	s.noViolation("reprotect")
	s.order("switchover", "a", "b", "a test")
	awaitGroup(t, s.files["b"], "b")
	s.order("failback", "b", "a", "home")
	awaitGroup(t, s.files["a"], "a")
	checkEvents(t, s.files["a"])
	o := holdfast(t.Context(), "run", "start", "--plan", "main", "--kind", "failover", "--from", "b", "--to", "a", "--reason", "a mistake", "--by", "somebody", "--config", s.files["a"])
	if o.code == 0 {
		t.Error("a failover of a group that is at home was started")
	}
	s.checkAudit("a", "a.operator", "run_start_refused", "somebody", "a mistake")
	s.checkAudit("a", "a.operator", "run_started", "tester", "home")
	s.checkAudit("a", "a.failover", "promoted_erp_", "", "a.failover")
	s.checkAudit("a", "a.failover", "campaign_won_erp_", "", "")
	s.checkAudit("b", "a.failover", "demoted_erp_", "", "")
	s.noViolation("failback")
}

// volumes adds a volume to the group while its VM runs, and removes it.
func (s *secured) volumes() {
	s.t.Helper()
	volume := func(args ...string) outcome {
		return holdfast(s.t.Context(), append(append([]string{"group", "volume"}, args...), "--by", "tester", "--config", s.files["a"])...)
	}
	if o := volume("add", "erp", "archive", "--size", "8MiB", "--why", "more room"); o.code != 0 || !strings.Contains(o.stdout, ".erp.archive.e") {
		s.t.Fatalf("add: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	if o := volume("add", "erp", "archive", "--size", "8MiB"); o.code == 0 || !strings.Contains(o.err.Error(), "it has a volume archive") {
		s.t.Fatalf("add again: exit %d, %v", o.code, o.err)
	}
	for what, args := range map[string][]string{"without --yes": {"remove", "erp", "archive", "--why", "a test"}, "of a vm": {"remove", "erp", "data", "--yes", "--why", "a test"}} {
		if o := volume(args...); o.code != 3 {
			s.t.Fatalf("remove %s: exit %d, %v", what, o.code, o.err)
		}
	}
	if o := volume("remove", "erp", "archive", "--yes", "--why", "a test"); o.code != 0 || !strings.Contains(o.stdout, "kept at each site") {
		s.t.Fatalf("remove: exit %d, %v: %s", o.code, o.err, o.stdout)
	}
	s.checkAudit("a", "a.operator", "group_set", "tester", "a test")
	awaitVolumes(s.t, s.files["a"], "b", func(t []api.VolumeSlot) bool { return len(t) == 2 && t[1].ID == "archive" && t[1].Gone != 0 })
	if o := volume("discard", "erp", "archive", "--site", "a", "--why", "a test"); o.code != 3 {
		s.t.Fatalf("discard without --yes: exit %d, %v", o.code, o.err)
	}
	if o := volume("discard", "erp", "archive", "--site", "a", "--yes", "--why", "no need"); o.code != 0 {
		s.t.Fatalf("discard: exit %d, %v", o.code, o.err)
	}
	s.checkAudit("a", "a.operator", "volume_discarded_erp_archive", "tester", "no need")
	awaitVolumes(s.t, s.files["a"], "a", func(t []api.VolumeSlot) bool { return len(t) == 2 && t[1].Emptied })
}

// awaitVolumes waits until a site's table of the group's volumes is as it should be.
func awaitVolumes(t *testing.T, config string, site domain.SiteID, is func([]api.VolumeSlot) bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		o := holdfast(t.Context(), "group", "volume", "list", "erp", "--config", config, "--output", "json")
		var v struct {
			Sites map[domain.SiteID][]api.VolumeSlot
		}
		if o.code == 0 && json.Unmarshal([]byte(o.stdout), &v) == nil && is(v.Sites[site]) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("volumes at site %s: exit %d, %v: %s", site, o.code, o.err, o.stdout)
		}
	}
}

// policy changes the mode of the group's target while its VM runs, and waits until that is so.
func (s *secured) policy(mode string) {
	s.t.Helper()
	s.awaitCalm()
	o := holdfast(s.t.Context(), "group", "set", "erp", "--target", "b="+mode, "--reason", "to "+mode, "--by", "tester", "--wait", "--config", s.files["a"], "--output", "json")
	var v struct{ Copy api.GroupStatus }
	if o.code != 0 || json.Unmarshal([]byte(o.stdout), &v) != nil || len(v.Copy.Targets) != 1 || v.Copy.Targets[0].InSync != (mode == "sync") {
		s.t.Fatalf("group set to %s: exit %d, %v: %s", mode, o.code, o.err, o.stdout)
	}
}

// checkAudit finds an entry in a site's audit; what a person had done must also say from where.
func (s *secured) checkAudit(at domain.SiteID, who, what, claimed, why string) {
	s.t.Helper()
	r := remote{file: s.files["a"], output: "text", timeout: 10 * time.Second}
	_, mesh, err := r.open(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer mesh.Close()
	conn, err := mesh.Conn(at)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	var seen []string
	for ctx.Err() == nil {
		subjects, err := conn.Subjects(ctx, api.StreamAudit, audit.Filter(at))
		if err != nil {
			continue
		}
		seen = nil
		for subject := range subjects {
			rec, err := conn.Last(ctx, api.StreamAudit, subject)
			var e audit.Entry
			if err != nil || json.Unmarshal(rec.Data, &e) != nil {
				continue
			}
			if strings.HasPrefix(api.Token(e.What), what) && e.Who == who && e.Claimed == claimed && strings.Contains(e.Why, why) && (claimed == "" || e.From != "") {
				return
			}
			seen = append(seen, strings.Join([]string{e.Who, e.What, e.Claimed, e.From, e.Why}, " "))
		}
		time.Sleep(50 * time.Millisecond) // it is recorded behind the act
	}
	s.t.Errorf("no %s by %s (%s) in the audit of %s: %s", what, who, claimed, at, strings.Join(seen, "; "))
}

// awaitServing asks until a group serves at a site.
func awaitServing(t *testing.T, file string, at domain.SiteID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		o := holdfast(ctx, "group", "show", "erp", "--config", file, "--output", "json")
		var v groupView
		if (o.code == 0 || o.code == 4) && json.Unmarshal([]byte(o.stdout), &v) == nil && v.Copies[at].Serving {
			return
		}
		last = fmt.Sprint(o.stdout, o.err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("group erp does not serve at site %s: %s", at, last)
		}
	}
}
