package health

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
	"github.com/holdfast-dr/holdfast/services/health/aware"
	"github.com/holdfast-dr/holdfast/services/health/detect"
)

// instant is one moment on both clocks: CLOCK_BOOTTIME to decide by, the wall to tell people.
type instant struct {
	at   time.Duration
	wall time.Time
}

func now() instant { return instant{at: time.Duration(clock.Now()), wall: time.Now()} }

// on is the wall time of another reading of the boot clock.
func (i instant) on(at time.Duration) time.Time { return i.wall.Add(at - i.at).UTC() }

// key is one object on one path.
type key struct {
	kind, id string
	site     domain.SiteID
	path     string
}

// Paths besides those of a site.
const (
	pathTCP  = "tcp"
	pathHTTP = "http"
)

// maxObjects bounds what heartbeats can make this service remember.
const maxObjects = 16384

// tickPart is how many ticks a beat has: losses are noticed that much finer than beats.
const tickPart = 5

type watched struct {
	det     *detect.Detector
	on      string
	failure string
}

type heard struct {
	view api.View
	sent time.Duration // when it was asked for
	calm bool          // it sees nothing wrong
}

// observer holds one detector per object and path, and the views of the other sites' observers. It takes time as an argument;
// its methods may be called from any goroutine.
type observer struct {
	cfg Config

	mu      sync.Mutex
	objects map[key]*watched
	views   map[domain.SiteID]heard
	self    *aware.Self
	state   assess.State
	result  assess.Result
	decide  func(assess.State, assess.Rules, assess.Input) (assess.State, assess.Result)
	windows *windows
	racks   map[string]string // of this site's hosts
	met     bool              // other sites were seen since the start: until then being alone is no news
	doubted bool              // as last told
	settled int               // objects at the last decision, when that found all of them well and changed nothing; else 0
}

func newObserver(cfg Config, t instant, state assess.State) *observer {
	o := &observer{cfg: cfg, objects: map[key]*watched{}, views: map[domain.SiteID]heard{}, self: aware.New(cfg.Timing.aware(), t.at), state: state,
		decide: assess.Decide, racks: map[string]string{}, windows: &windows{site: cfg.Site, all: map[string]api.Maintenance{}}}
	for _, h := range cfg.Hosts {
		o.racks[string(h.ID)] = h.Rack
	}
	o.result.Isolated = true // until another site is seen
	for _, id := range cfg.Services {
		for _, k := range nodeKeys(api.Heartbeat{Site: cfg.Site, Node: id, Kind: id}) {
			o.watch(k, cfg.Timing.NodeBeat, t)
		}
	}
	for _, s := range cfg.Sites {
		if s.ID == cfg.Site {
			continue
		}
		o.watch(siteKey(s.ID, assess.PathHeartbeat), cfg.Timing.Beat, t)
		o.watch(siteKey(s.ID, assess.PathAPI), cfg.Timing.Beat, t)
		o.watch(healthKey(s.ID), cfg.Timing.Beat, t)
	}
	return o
}

func siteKey(s domain.SiteID, path string) key {
	return key{kind: assess.KindSite, id: string(s), site: s, path: path}
}

// healthKey is another site's health service, as it answers requests.
func healthKey(s domain.SiteID) key {
	return key{kind: assess.KindService, id: api.ServiceHealth, site: s, path: assess.PathAPI}
}

func (o *observer) watch(k key, interval time.Duration, t instant) *watched {
	w, ok := o.objects[k]
	if !ok && len(o.objects) < maxObjects {
		w = &watched{det: detect.New(o.cfg.Timing.params(interval), t.at)}
		o.objects[k] = w
	}
	return w
}

// expect begins to watch an object that has not answered yet.
func (o *observer) expect(t instant, k key, on string) { o.expectEvery(t, k, on, o.cfg.Timing.Beat) }

// expectEvery is expect of what answers less often than once a beat.
func (o *observer) expectEvery(t instant, k key, on string, interval time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watch(k, interval, t); w != nil {
		w.on = on
	}
}

// drop ends the watch of an object.
func (o *observer) drop(k key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.objects, k)
}

// good takes an answer of an object that is probed or asked by this service. One that is no longer expected is ignored: the
// answer was under way when it was dropped.
func (o *observer) good(t instant, k key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	if w, ok := o.objects[k]; ok {
		w.failure = ""
		w.det.Good(t.at)
	}
}

// failed notes why an answer did not come; that it did not is counted by time.
func (o *observer) failed(k key, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w, ok := o.objects[k]; ok {
		w.failure = err.Error()
	}
}

// beat takes a heartbeat that a node pushed to this site's server.
func (o *observer) beat(t instant, hb api.Heartbeat) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	if hb.Site != o.cfg.Site && hb.Kind != nodeHost { // hosts alone serve nothing: the lease and the volumes are with the services
		o.objects[siteKey(hb.Site, assess.PathHeartbeat)].det.Good(t.at)
	}
	interval := o.cfg.Timing.NodeBeat
	if hb.Kind == api.ServiceHealth {
		interval = o.cfg.Timing.Beat
	}
	for _, k := range nodeKeys(hb) {
		if w := o.watch(k, interval, t); w != nil {
			w.det.Good(t.at)
		}
	}
}

// hear takes the view of another site's observer, asked for at sent.
func (o *observer) hear(t instant, sent time.Duration, v api.View) {
	o.good(t, siteKey(v.Observer, assess.PathAPI))
	o.good(t, healthKey(v.Observer))
	o.mu.Lock()
	defer o.mu.Unlock()
	if h, ok := o.views[v.Observer]; !ok || h.sent < sent {
		calm := !v.Sick && !slices.ContainsFunc(v.Observations, func(x api.Observation) bool { return x.State != api.StateAlive || x.Missed > 1 })
		o.views[v.Observer] = heard{view: v, sent: sent, calm: calm}
	}
}

// wake notices that this process did not run for a while: what it did not hear then is no evidence.
func (o *observer) wake(t instant) {
	if o.self.Woke(t.at) {
		o.blind(t)
	}
}

// blind begins anew after a time in which this observer could not hear.
func (o *observer) blind(t instant) {
	for _, w := range o.objects {
		w.det.Forgive(t.at)
	}
	clear(o.views)
}

// tick lets time pass and returns what there is to tell. connected: this site's own server is reached.
func (o *observer) tick(t instant, connected bool) []assess.Change {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	late := o.self.Tick(t.at)
	if o.self.Hears(t.at, o.deaf(t, connected)) {
		o.blind(t)
	}
	under := o.windows.active(t.wall)
	calm := len(o.self.Doubts(t.at)) == 0 && o.calmViews(t) && len(under) == 0
	for _, w := range o.objects {
		if late > 0 {
			w.det.Excuse(t.at, late)
		}
		w.det.Tick(t.at)
		calm = calm && w.det.State() == api.StateAlive && w.det.Missed(t.at) <= 1
	}
	if calm && o.settled == len(o.objects) {
		return nil // deciding again about the same would conclude the same
	}
	in := assess.Input{Self: o.cfg.Site, Own: o.view(t, true), Views: map[domain.SiteID]api.View{}}
	in.Maintenance = under
	in.Own.Doubts = o.self.Doubts(t.at)
	in.Own.Sick = len(in.Own.Doubts) > 0
	for _, s := range o.cfg.Sites {
		in.Sites = append(in.Sites, s.ID)
	}
	for site, h := range o.views {
		if o.fresh(t, h) {
			in.Views[site] = h.view
		}
	}
	o.state, o.result = o.decide(o.state, assess.Rules{Vantages: o.cfg.Vantages}, in)
	o.met = o.met || !o.result.Isolated
	if o.settled = 0; calm && len(o.result.Changes) == 0 {
		o.settled = len(o.objects)
	}
	return o.result.Changes
}

// judged are the doubts to tell of, when they began or ended since it was last asked.
func (o *observer) judged(t instant) (doubts []string, confidence float64, changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	doubts = o.doubts(t)
	if (len(doubts) > 0) == o.doubted || !o.met && len(doubts) > 0 {
		return nil, 0, false
	}
	o.doubted = len(doubts) > 0
	if confidence = o.self.Confidence(t.at); o.doubted {
		confidence = aware.Low
	}
	return doubts, confidence, true
}

// fresh: a view counts for Suspect beats from when it was asked for.
func (o *observer) fresh(t instant, h heard) bool {
	return t.at-h.sent < time.Duration(o.cfg.Timing.Suspect)*o.cfg.Timing.Beat
}

// calmViews: every other site's observer was heard lately, and sees nothing wrong.
func (o *observer) calmViews(t instant) bool {
	for _, s := range o.cfg.Sites {
		h, ok := o.views[s.ID]
		if s.ID != o.cfg.Site && (!ok || !h.calm || !o.fresh(t, h)) {
			return false
		}
	}
	return true
}

// deaf is why this service cannot hear; empty when it can.
func (o *observer) deaf(t instant, connected bool) string {
	if !connected {
		return "its own server is out of reach"
	}
	w, ok := o.objects[key{kind: assess.KindService, id: api.ServiceHealth, site: o.cfg.Site, path: assess.PathHeartbeat}]
	if ok && w.det.Missed(t.at) >= o.cfg.Timing.Suspect {
		return "its own heartbeats do not come back from its own server"
	}
	return ""
}

// doubts are why what this observer sees counts for nobody.
func (o *observer) doubts(t instant) []string {
	out := o.self.Doubts(t.at)
	if o.result.Isolated {
		out = append(out, api.DoubtIsolated)
	}
	return out
}

// View is what this observer sees. Without all, only sites and what is not alive: the rest is well, and need not be sent to
// other sites several times a second.
func (o *observer) View(t instant, all bool) api.View {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	return o.view(t, all)
}

func (o *observer) view(t instant, all bool) api.View {
	v := api.View{Observer: o.cfg.Site, At: t.wall.UTC(), Observations: []api.Observation{}, Doubts: o.doubts(t), Confidence: o.self.Confidence(t.at)}
	if v.Sick = len(v.Doubts) > 0; v.Sick {
		v.Confidence = aware.Low
	}
	for k, w := range o.objects {
		on := w.on
		if k.kind == assess.KindHost && k.site == o.cfg.Site {
			on = o.racks[k.id]
		}
		ob := api.Observation{Kind: k.kind, ID: k.id, Site: k.site, Path: k.path, State: w.det.State(), On: on,
			Since: t.on(w.det.Since()), Missed: w.det.Missed(t.at)}
		if first, ok := w.det.FirstMissed(); ok {
			ob.FirstMissed = t.on(first)
		}
		if ob.Missed > 0 {
			ob.Detail = strconv.Itoa(ob.Missed) + " missed"
			ob.Suspicion = math.Round(w.det.Phi(t.at)*10) / 10
		}
		if w.failure != "" {
			ob.Detail = cmp.Or(ob.Detail, "last try") + ": " + w.failure
		}
		v.Observations = append(v.Observations, ob)
	}
	v.Observations = append(v.Observations, assess.Racks(v.Observations, o.cfg.Site)...)
	if !all {
		v.Observations = slices.DeleteFunc(v.Observations, func(x api.Observation) bool { return x.Kind != assess.KindSite && x.State == api.StateAlive })
		v.Maintenance = o.windows.list(t.wall)
	}
	slices.SortFunc(v.Observations, func(a, b api.Observation) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID), -cmp.Compare(a.Path, b.Path))
	})
	return v
}

// Status is the reply of the status verb.
func (o *observer) Status(t instant) api.HealthStatus {
	v := o.View(t, true)
	o.mu.Lock()
	defer o.mu.Unlock()
	return api.HealthStatus{Site: o.cfg.Site, View: v, Assessments: slices.Clone(o.result.Assessments), Maintenance: o.windows.list(t.wall)}
}
