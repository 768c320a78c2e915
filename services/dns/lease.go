package dns

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// leaseRequestWait bounds one question to the own site's quorum.
const leaseRequestWait = time.Second

// leases knows until when this site may answer names with its own addresses.
type leases struct {
	quorum    *bus.Conn
	zone      func() zone.Zone
	siteIndex int
	own       map[string]bool // canonical addresses
	poll      time.Duration
	drift     float64
	log       *slog.Logger

	mu        sync.Mutex
	deadlines map[domain.GroupID]clock.Time
}

func newLeases(cfg Config, quorum *bus.Conn, current func() zone.Zone, log *slog.Logger) *leases {
	l := &leases{quorum: quorum, zone: current, siteIndex: cfg.SiteIndex, own: map[string]bool{}, poll: cfg.LeasePoll, drift: cfg.ClockDrift, log: log,
		deadlines: map[domain.GroupID]clock.Time{}}
	for _, a := range cfg.OwnAddresses {
		if t, err := zone.TypeOf(a); err == nil { // Validate has seen them
			a, _ = zone.CanonicalValue(t, a)
		}
		l.own[a] = true
	}
	return l
}

// pointsHere reports whether r leads clients to this site, as a name of a group.
func (l *leases) pointsHere(r zone.Record) bool {
	return r.Value != "" && r.Group != "" && (l.own[r.Value] || l.siteIndex != 0 && r.Epoch.Site() == l.siteIndex)
}

// serving reports whether name may be answered now: it does not point here, or this site holds its group's lease.
func (l *leases) serving(name string) bool {
	z := l.zone()
	for _, t := range []zone.Type{zone.A, zone.AAAA} {
		if r, ok := z.Lookup(name, t); ok && l.pointsHere(r) && !l.holds(r.Group) {
			return false
		}
	}
	return true
}

func (l *leases) holds(g domain.GroupID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, ok := l.deadlines[g]
	return ok && clock.Now().Before(until)
}

// run keeps asking for the groups whose names point here, until ctx ends.
func (l *leases) run(ctx context.Context) {
	tick := time.NewTicker(l.poll)
	defer tick.Stop()
	for {
		l.refreshAll(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *leases) refreshAll(ctx context.Context) {
	var groups []domain.GroupID
	for _, r := range l.zone().Records() {
		if l.pointsHere(r) {
			groups = append(groups, r.Group)
		}
	}
	slices.Sort(groups)
	const atOnce = 16
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, g := range slices.Compact(groups) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l.refresh(ctx, g)
		})
	}
	wg.Wait()
}

// refresh asks the own site's quorum about one group. No answer changes nothing: the deadline runs on.
func (l *leases) refresh(ctx context.Context, g domain.GroupID) {
	ctx, cancel := context.WithTimeout(ctx, leaseRequestWait)
	defer cancel()
	sent := clock.Now()
	lease, err := bus.Call[api.Lease](ctx, l.quorum, api.ServiceQuorum, api.VerbLease, api.LeaseRequest{Group: g})
	if err != nil {
		l.log.Debug("lease not known", "group", string(g), "error", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !lease.Held {
		delete(l.deadlines, g)
		return
	}
	l.deadlines[g] = sent.Add(time.Duration(float64(lease.RemainingNs) * (1 - l.drift) / (1 + l.drift)))
}
