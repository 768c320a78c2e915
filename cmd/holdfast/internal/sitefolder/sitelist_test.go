package sitefolder

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

func TestTheListOfSitesFollowsTheInstallationAndKeepsTheRest(t *testing.T) {
	site := func(id string, index int, nats string) identity.Facts {
		return identity.Facts{Site: domain.SiteID(id), Index: index, Role: domain.SiteData, NATS: nats}
	}
	a, b, c := site("a", 1, "tls://a:4222"), site("b", 2, "tls://b:4222"), site("c", 3, "tls://c:4222")
	moved := site("b", 2, "tls://new:4333")
	for _, x := range []struct {
		name, text string
		now, was   []identity.Facts
		want       string // of the text; empty: unchanged
		mend       string // of the error
	}{
		{name: "nothing to do", text: "sites:\n- {id: a, index: 1, role: data, nats: x} # ours\n", now: []identity.Facts{a}},
		{name: "added at the margin", text: "x: 1\nsites:\n- {id: a, index: 1, role: data, nats: x}\n\n# next\ny: 2\n", now: []identity.Facts{a, b},
			want: "x: 1\nsites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: b, index: 2, role: data, nats: \"tls://b:4222\"}\n\n# next\ny: 2\n"},
		{name: "added after an entry of many lines", text: "sites:\n    - id: a\n      index: 1\n      role: data\n      nats: x # y\ny: 2\n", now: []identity.Facts{a, b},
			want: "sites:\n    - id: a\n      index: 1\n      role: data\n      nats: x # y\n    - {id: b, index: 2, role: data, nats: \"tls://b:4222\"}\ny: 2\n"},
		{name: "added after a brace of its own line", text: "sites:\n  - {id: a, index: 1,\n     role: data, nats: x\n    }\n", now: []identity.Facts{a, b},
			want: "sites:\n  - {id: a, index: 1,\n     role: data, nats: x\n    }\n  - {id: b, index: 2, role: data, nats: \"tls://b:4222\"}\n"},
		{name: "no line end at the end", text: "sites:\n- {id: a, index: 1, role: data, nats: x}", now: []identity.Facts{a, b},
			want: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: b, index: 2, role: data, nats: \"tls://b:4222\"}\n"},
		{name: "a changed address", text: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: b, index: 2, role: data, nats: \"tls://b:4222\"} # far\n",
			now: []identity.Facts{a, moved}, was: []identity.Facts{a, b},
			want: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: b, index: 2, role: data, nats: \"tls://new:4333\"} # far\n"},
		{name: "an address of the owner's", text: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: b, index: 2, role: data, nats: \"tls://vpn:4222\"}\n",
			now: []identity.Facts{a, moved}, was: []identity.Facts{a, b}},
		{name: "a way round", text: "sites:\n- {id: a, index: 1, role: data, nats: x, relay: \"a:4230\"}\n- {id: b, index: 2, role: data, nats: \"tls://b:4222\", via: a}\n",
			now: []identity.Facts{a, moved}, was: []identity.Facts{a, b},
			want: "sites:\n- {id: a, index: 1, role: data, nats: x, relay: \"a:4230\"}\n- {id: b, index: 2, role: data, nats: \"tls://new:4333\", via: a}\n"},
		{name: "one goes and one comes", text: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- id: b\n  index: 2\n  role: data\n  nats: y\nz: 1\n",
			now: []identity.Facts{a, c}, was: []identity.Facts{a, b},
			want: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: c, index: 3, role: data, nats: \"tls://c:4222\"}\nz: 1\n"},
		{name: "one of the owner's only", text: "sites:\n- {id: a, index: 1, role: data, nats: x}\n- {id: q, index: 9, role: data, nats: x}\n", now: []identity.Facts{a}},
		{name: "flow", text: "sites: [{id: a, index: 1, role: data, nats: x}]\n", now: []identity.Facts{a, b}, mend: "one on each line:\n  - {id: a,"},
		{name: "flow that is right already", text: "sites: [{id: a, index: 1, role: data, nats: x}]\n", now: []identity.Facts{a}},
		{name: "none", text: "x: 1\n", now: []identity.Facts{a}, mend: "one on each line"},
		{name: "no mapping", text: "- 1\n", now: []identity.Facts{a}, mend: "one on each line"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.want == "" {
				x.want = x.text
			}
			got, err := editSites("site.yaml", []byte(x.text), x.now, x.was)
			switch {
			case x.mend != "" && (err == nil || !strings.Contains(err.Error(), x.mend)):
				t.Errorf("want an error with %q, got %v", x.mend, err)
			case x.mend == "" && (err != nil || string(got) != x.want):
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, x.want)
			}
		})
	}
}

func FuzzEditSites(f *testing.F) {
	f.Add("sites:\n- {id: a, index: 1, role: data, nats: x}\n", "tls://b:4222")
	f.Add("sites:\n  - id: b\n    nats: \"tls://b:4222\"\n", "tls://b:4222")
	f.Fuzz(func(t *testing.T, text, nats string) {
		now := []identity.Facts{{Site: "b", Index: 1, Role: domain.SiteData, NATS: "tls://x:1"}}
		was := []identity.Facts{{Site: "b", NATS: nats}, {Site: "a", NATS: nats}}
		out, err := editSites("f", []byte(text), now, was)
		if err != nil {
			return
		}
		list, err := findSites("f", out)
		if err != nil || list == nil || len(missing(list, now)) > 0 {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}
