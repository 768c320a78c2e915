package api

import "testing"

func TestAnObjectIsDeadOnEveryPathOnWhichItIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		states []string
		dead   bool
	}{
		"on no path":                   {nil, false},
		"of which nothing is known":    {[]string{StateUnknown}, false},
		"on its one path":              {[]string{StateDead}, true},
		"beside one that says nothing": {[]string{StateDead, StateUnknown}, true},
		"after one that says nothing":  {[]string{StateUnknown, StateDead}, true},
		"on one of two":                {[]string{StateDead, StateAlive}, false},
		"with one suspect":             {[]string{StateSuspect, StateDead}, false},
	} {
		v := View{Observations: []Observation{{Kind: "vm", ID: "h1", Site: "a", State: StateDead}, {Kind: "host", ID: "h1", Site: "b", State: StateAlive},
			{Kind: "host", ID: "h2", Site: "a", State: StateAlive}}}
		for _, s := range c.states {
			v.Observations = append(v.Observations, Observation{Kind: "host", ID: "h1", Site: "a", State: s})
		}
		if got := v.Dead("host", "h1", "a"); got != c.dead {
			t.Errorf("%s: %v", name, got)
		}
	}
}
