package health

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// world plays an installation in virtual time: every site's observer, which is the real one, the nodes that beat, the calls
// between observers, the probes within a site, and a network that loses, delays and cuts. One goroutine; a seed replays it.
type world struct {
	t      testing.TB
	rng    *rand.Rand
	at     time.Duration
	queue  events
	seq    uint64
	sites  []domain.SiteID
	posts  map[domain.SiteID]*post
	nodes  []*node2
	things []*thing
	net    network
	down   map[string]bool // what was killed: "site/a", "service/a/quorum", "host/a/h1", "rack/a/r1", "server/a", "cut/a>b"
}

// post is one site's observer and how it runs.
type post struct {
	site      domain.SiteID
	obs       *observer
	pausedTil time.Duration
	starved   time.Duration // each tick is this late
	told      []saying
	doubted   bool
	asked     map[domain.SiteID]int // under way
	failures  map[domain.SiteID]int
	openTil   map[domain.SiteID]time.Duration // breakers
}

// saying is a change and when it was told.
type saying struct {
	at time.Duration
	assess.Change
}

// node2 is a service or host that beats at every site's server.
type node2 struct {
	hb      api.Heartbeat
	by      string // what kills it, beside its site: "host/a/h1", "service/a/quorum"
	rack    string
	inOrder map[domain.SiteID]time.Duration
}

// thing is what a site's observer probes itself.
type thing struct {
	site domain.SiteID
	key  key
	by   []string // what kills it
}

// network is how every line between two sites is now.
type network struct {
	loss    float64
	stream  bool // heartbeats that are lost are sent again, and those behind them wait, as TCP does; else what is lost is gone
	latency time.Duration
	spikes  map[string]spike // by line, "a>b"
}

type spike struct{ till, extra time.Duration }

type event2 struct {
	at  time.Duration
	seq uint64
	do  func()
}

type events []event2

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event2)) }
func (q *events) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

const boot = time.Hour

// newWorld begins with everything up, and those hosts at each data site. change, when given, makes another observer than the real one of each.
func newWorld(t testing.TB, seed uint64, timing Timing, change func(*observer), hosts ...Host) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 2026)), at: boot, sites: []domain.SiteID{"a", "b", "w"}, posts: map[domain.SiteID]*post{},
		net: network{latency: 5 * time.Millisecond, spikes: map[string]spike{}}, down: map[string]bool{}}
	for _, s := range w.sites {
		cfg := testConfig(s)
		cfg.Timing = timing
		cfg.Services = []string{"quorum"}
		if s != "w" {
			cfg.Services = append(cfg.Services, "replicator", "failover")
			cfg.Hosts = hosts
		}
		p := &post{site: s, obs: newObserver(cfg, w.now(), assess.State{}), asked: map[domain.SiteID]int{}, failures: map[domain.SiteID]int{}, openTil: map[domain.SiteID]time.Duration{}}
		if change != nil {
			change(p.obs)
		}
		w.posts[s] = p
		w.populate(s, cfg)
		w.start(p)
	}
	return w
}

func (w *world) now() instant {
	return instant{at: w.at, wall: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(w.at)}
}

func (w *world) later(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event2{w.at + d, w.seq, do})
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.at + d
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event2)
		w.at = e.at
		e.do()
	}
	w.at = end
}

func (w *world) populate(s domain.SiteID, cfg Config) {
	add := func(n *node2) {
		n.inOrder = map[domain.SiteID]time.Duration{}
		w.nodes = append(w.nodes, n)
		w.later(time.Duration(w.rng.Int64N(int64(cfg.Timing.NodeBeat))), func() { w.beat(n) })
	}
	for _, id := range append(slices.Clone(cfg.Services), "health") {
		add(&node2{hb: api.Heartbeat{Site: s, Node: id, Kind: id}, by: "service/" + string(s) + "/" + id})
	}
	for i, h := range cfg.Hosts {
		host := "host/" + string(s) + "/" + string(h.ID)
		add(&node2{hb: api.Heartbeat{Site: s, Node: "host-" + string(h.ID), Kind: "host"}, by: host, rack: "rack/" + string(s) + "/" + cfg.Hosts[i].Rack})
		w.thing(s, hostKey(string(h.ID), s, pathTCP), "", host, "rack/"+string(s)+"/"+h.Rack)
		w.thing(s, vmKey(domain.VMID("vm-"+string(h.ID)), s), string(h.ID), host, "rack/"+string(s)+"/"+h.Rack, "vm/"+string(s)+"/vm-"+string(h.ID))
	}
	if s != "w" {
		w.thing(s, key{kind: assess.KindPort, id: nodeReplicator, site: s, path: pathTCP}, "", "service/"+string(s)+"/replicator", "port/"+string(s)+"/replicator")
	}
}

// thing is probed by its site's observer every beat.
func (w *world) thing(s domain.SiteID, k key, on string, by ...string) {
	p := w.posts[s]
	p.obs.expect(w.now(), k, on)
	x := &thing{site: s, key: k, by: by}
	w.things = append(w.things, x)
	beat := p.obs.cfg.Timing.Beat
	var probe func()
	probe = func() {
		w.later(beat, probe)
		if !w.isDown(append([]string{"site/" + string(s)}, x.by...)...) {
			w.handle(p, func() { p.obs.good(w.now(), x.key) })
		}
	}
	w.later(time.Duration(w.rng.Int64N(int64(beat))), probe)
}

func (w *world) isDown(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return w.down[n] })
}

// beat sends one heartbeat of a node to every server.
func (w *world) beat(n *node2) {
	timing := w.posts[n.hb.Site].obs.cfg.Timing
	every := timing.NodeBeat
	if n.hb.Node == "health" {
		every = timing.Beat
	}
	w.later(every, func() { w.beat(n) })
	if w.isDown("site/"+string(n.hb.Site), n.by, n.rack) {
		return
	}
	if p := w.posts[n.hb.Site]; n.hb.Node == "health" && w.at < p.pausedTil {
		return
	}
	for _, to := range w.sites {
		d, ok := w.travel(n.hb.Site, to, n.inOrder)
		if !ok {
			continue
		}
		w.later(d, func() {
			if p := w.posts[to]; w.server(to) {
				w.handle(p, func() { p.obs.beat(w.now(), n.hb) })
			}
		})
	}
}

func (w *world) server(s domain.SiteID) bool {
	return !w.isDown("site/"+string(s), "server/"+string(s))
}

// travel is how long a message takes from a site's client to another's server; false: it is lost. order, when given, is of the
// connection of a node that beats: nothing overtakes. What a call lost is always sent again, as TCP does.
func (w *world) travel(from, to domain.SiteID, order map[domain.SiteID]time.Duration) (time.Duration, bool) {
	if from == to {
		return time.Millisecond, true
	}
	line := string(from) + ">" + string(to)
	if w.down["cut/"+line] {
		return 0, false
	}
	d := w.net.latency + time.Duration(w.rng.Int64N(int64(w.net.latency)))
	if s, ok := w.net.spikes[line]; ok && w.at < s.till {
		d += s.extra
	}
	for again := 200 * time.Millisecond; w.rng.Float64() < w.net.loss; again *= 2 {
		if !w.net.stream && order != nil {
			return 0, false
		}
		d += again
	}
	if order != nil && w.net.stream {
		d = max(d, order[to]-w.at)
		order[to] = w.at + d
	}
	return d, true
}

// handle lets an observer's process do something, once it runs again.
func (w *world) handle(p *post, do func()) {
	if w.isDown("site/"+string(p.site), "service/"+string(p.site)+"/health") {
		return
	}
	if w.at < p.pausedTil {
		w.later(p.pausedTil-w.at, do)
		return
	}
	do()
}

// start lets an observer tick and ask.
func (w *world) start(p *post) {
	beat := p.obs.cfg.Timing.Beat
	var tick func()
	tick = func() {
		w.later(beat/tickPart+p.starved, tick)
		w.handle(p, func() {
			for _, c := range p.obs.tick(w.now(), w.server(p.site)) {
				p.told = append(p.told, saying{w.at, c})
			}
			p.doubted = p.doubted || len(p.obs.self.Doubts(w.at)) > 0
		})
	}
	w.later(time.Duration(w.rng.Int64N(int64(beat/tickPart))), tick)
	for _, far := range w.sites {
		if far != p.site {
			var ask func()
			ask = func() {
				w.later(beat/2, ask)
				w.ask(p, far)
			}
			w.later(time.Duration(w.rng.Int64N(int64(beat/2))), ask)
			var ping func()
			ping = func() {
				w.later(beat, ping)
				w.ping(p, far)
			}
			w.later(time.Duration(w.rng.Int64N(int64(beat))), ping)
		}
	}
}

// ping is one round trip to another site's server.
func (w *world) ping(p *post, far domain.SiteID) {
	if w.at < p.pausedTil || w.isDown("site/"+string(p.site), "service/"+string(p.site)+"/health") {
		return
	}
	there, ok := w.travel(p.site, far, nil)
	back, also := w.travel(far, p.site, nil)
	if ok && also && there+back < 2*p.obs.cfg.Timing.Beat {
		w.later(there+back, func() {
			if w.server(far) {
				w.handle(p, func() { p.obs.good(w.now(), siteKey(far, assess.PathAPI)) })
			}
		})
	}
}

// ask is one call of an observer to another's server, with its time-out and its breaker.
func (w *world) ask(p *post, far domain.SiteID) {
	timing := p.obs.cfg.Timing
	if p.asked[far] >= maxAsked || p.failures[far] >= timing.Suspect && p.asked[far] > 0 || w.at < p.openTil[far] || w.at < p.pausedTil || w.isDown("site/"+string(p.site), "service/"+string(p.site)+"/health") {
		return
	}
	patience := time.Duration(timing.Dead) * timing.Beat
	if p.failures[far] >= timing.Suspect {
		patience = 2 * timing.Beat
	}
	p.asked[far]++
	sent, open := w.at, true
	end := func(err bool, do func()) {
		if !open {
			return
		}
		open = false
		w.handle(p, func() {
			p.asked[far]--
			if p.failures[far]++; !err {
				p.failures[far] = 0
			}
			if p.failures[far] >= timing.Suspect {
				p.openTil[far] = w.at + 2*timing.Beat
			}
			do()
		})
	}
	w.later(patience, func() { end(true, func() {}) })
	there, ok := w.travel(p.site, far, nil)
	if !ok {
		return
	}
	w.later(there, func() {
		if !w.server(far) {
			return
		}
		back, ok := w.travel(far, p.site, nil)
		if w.down["service/"+string(far)+"/health"] {
			if ok {
				w.later(back, func() { end(false, func() { p.obs.good(w.now(), siteKey(far, assess.PathAPI)) }) })
			}
			return
		}
		w.handle(w.posts[far], func() {
			view := w.posts[far].obs.View(w.now(), false)
			if ok {
				w.later(back, func() {
					end(false, func() {
						p.obs.hear(w.now(), sent, view)
						if err := p.obs.windows.learn(w.now().wall, view.Maintenance); err != nil {
							w.t.Error(err)
						}
					})
				})
			}
		})
	})
}

// said lists what a site's observer told since a time, as entity.fact/id.
func (p *post) said(since time.Duration) []string {
	var out []string
	for _, c := range p.told {
		if c.at < since {
			continue
		}
		id := c.Object.ID
		if id == "" {
			id = string(c.Assessment.Site)
		}
		out = append(out, c.Entity+"."+c.Fact+"/"+id)
	}
	return out
}

// count is how many of what the observers told begins so.
func (w *world) count(prefix string) int {
	n := 0
	for _, p := range w.posts {
		for _, s := range p.said(0) {
			if strings.HasPrefix(s, prefix) {
				n++
			}
		}
	}
	return n
}
