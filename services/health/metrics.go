package health

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/health/assess"
	"github.com/holdfast-dr/holdfast/services/health/detect"
)

// tellMetrics lets the gauges be read from what the observer sees.
func (s *service) tellMetrics(m *telemetry.Metrics) {
	m.Collect([]string{telemetry.HealthObjects, telemetry.HealthSuspicion, telemetry.HealthMissed, telemetry.HealthAssessment, telemetry.HealthSick, telemetry.ClockSkew},
		func(set telemetry.Set) {
			t := now()
			s.obs.measure(t, set)
			for _, n := range s.nodes.status(t) {
				if n.Site != s.cfg.Site && n.Node == api.ServiceHealth { // it stands for its site
					set(telemetry.ClockSkew, time.Duration(n.ClockOffsetNs).Seconds(), string(n.Site))
				}
			}
		})
}

// measure tells what is seen now. Single objects are named only for sites: the others are counted by kind and state.
func (o *observer) measure(t instant, set telemetry.Set) {
	st := o.Status(t)
	set(telemetry.HealthSick, telemetry.Bool(st.View.Sick))
	type class struct{ kind, state string }
	count := map[class]int{}
	for _, ob := range st.View.Observations {
		count[class{ob.Kind, ob.State}]++
		if ob.Kind == assess.KindSite {
			set(telemetry.HealthMissed, float64(ob.Missed), ob.ID, ob.Path)
			set(telemetry.HealthSuspicion, min(1, ob.Suspicion/detect.Threshold), ob.ID, ob.Path)
		}
	}
	kinds := map[string]bool{}
	for c := range count {
		kinds[c.kind] = true
	}
	for kind := range kinds {
		for _, state := range []string{api.StateUnknown, api.StateAlive, api.StateSuspect, api.StateDead} {
			set(telemetry.HealthObjects, float64(count[class{kind, state}]), kind, state)
		}
	}
	concluded := map[domain.SiteID]string{}
	for _, a := range st.Assessments {
		concluded[a.Site] = a.Class
	}
	for _, site := range o.cfg.Sites {
		for _, c := range []string{api.ClassNone, api.ClassService, api.ClassIncident, api.ClassDisaster, api.ClassWAN} {
			is := concluded[site.ID] == c || c == api.ClassNone && concluded[site.ID] == ""
			set(telemetry.HealthAssessment, telemetry.Bool(is), string(site.ID), c)
		}
	}
}
