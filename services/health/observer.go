package health

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
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
}

// observer holds one detector per object and path, and the views of the other sites' observers. It takes time as an argument;
// its methods may be called from any goroutine.
type observer struct {
	cfg Config

	mu        sync.Mutex
	objects   map[key]*watched
	views     map[domain.SiteID]heard
	lastTick  time.Duration
	sickUntil time.Duration
	localDown bool
	state     assess.State
	result    assess.Result
}

func newObserver(cfg Config, t instant, state assess.State) *observer {
	o := &observer{cfg: cfg, objects: map[key]*watched{}, views: map[domain.SiteID]heard{}, lastTick: t.at, state: state}
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
func (o *observer) expect(t instant, k key, on string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watch(k, o.cfg.Timing.Beat, t); w != nil {
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
		o.views[v.Observer] = heard{view: v, sent: sent}
	}
}

// wake notices that this process did not run for a while: what it did not hear then is no evidence.
func (o *observer) wake(t instant) {
	if t.at-o.lastTick > o.cfg.Timing.Beat/tickPart+o.cfg.Timing.PauseLimit {
		o.blind(t)
		o.lastTick = t.at
	}
}

// blind begins anew after a time in which this observer could not hear, and doubts itself until it has listened for as long
// as a loss takes to show.
func (o *observer) blind(t instant) {
	for _, w := range o.objects {
		w.det.Forgive(t.at)
	}
	clear(o.views)
	o.sickUntil = t.at + time.Duration(o.cfg.Timing.Dead)*max(o.cfg.Timing.Beat, o.cfg.Timing.NodeBeat)
}

// tick lets time pass and returns what there is to tell. connected: this site's own server is reached.
func (o *observer) tick(t instant, connected bool) []assess.Change {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	o.lastTick = t.at
	down := !connected || o.deaf(t)
	if o.localDown && !down {
		o.blind(t)
	}
	o.localDown = down
	for _, w := range o.objects {
		w.det.Tick(t.at)
	}
	in := assess.Input{Self: o.cfg.Site, Own: o.view(t, true), Views: map[domain.SiteID]api.View{}}
	in.Own.Sick = o.sick(t)
	for _, s := range o.cfg.Sites {
		in.Sites = append(in.Sites, s.ID)
	}
	for site, h := range o.views {
		if t.at-h.sent < time.Duration(o.cfg.Timing.Suspect)*o.cfg.Timing.Beat {
			in.Views[site] = h.view
		}
	}
	o.state, o.result = assess.Decide(o.state, assess.Rules{Vantages: o.cfg.Vantages}, in)
	return o.result.Changes
}

// deaf: this service's own heartbeats do not come back through its own server.
func (o *observer) deaf(t instant) bool {
	w, ok := o.objects[key{kind: assess.KindService, id: api.ServiceHealth, site: o.cfg.Site, path: assess.PathHeartbeat}]
	return ok && w.det.Missed(t.at) >= o.cfg.Timing.Suspect
}

func (o *observer) sick(t instant) bool { return t.at < o.sickUntil || o.localDown }

// View is what this observer sees. Without all, only sites and what is not alive: the rest is well, and need not be sent to
// other sites several times a second.
func (o *observer) View(t instant, all bool) api.View {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake(t)
	return o.view(t, all)
}

func (o *observer) view(t instant, all bool) api.View {
	v := api.View{Observer: o.cfg.Site, At: t.wall.UTC(), Sick: o.sick(t) || o.result.Isolated, Observations: []api.Observation{}}
	for k, w := range o.objects {
		if !all && k.kind != assess.KindSite && w.det.State() == api.StateAlive {
			continue
		}
		ob := api.Observation{Kind: k.kind, ID: k.id, Site: k.site, Path: k.path, State: w.det.State(), On: w.on,
			Since: t.on(w.det.Since()), Missed: w.det.Missed(t.at)}
		if first, ok := w.det.FirstMissed(); ok {
			ob.FirstMissed = t.on(first)
		}
		if ob.Missed > 0 {
			ob.Detail = fmt.Sprintf("%d missed", ob.Missed)
		}
		if w.failure != "" {
			ob.Detail = cmp.Or(ob.Detail, "last try") + ": " + w.failure
		}
		v.Observations = append(v.Observations, ob)
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
	return api.HealthStatus{Site: o.cfg.Site, View: v, Assessments: slices.Clone(o.result.Assessments)}
}
