//go:build e2e_compose

package compose

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// confined looks at the running containers: what the compose file asks for is what they have.
func (f *fleet) confined(ctx context.Context, t *testing.T) {
	for _, p := range f.places {
		all, err := containers(ctx, p.project())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) < 3 {
			t.Errorf("site %s has %d containers", p.id, len(all))
		}
		for _, c := range all {
			i, err := inspect(ctx, c.ID)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(c.Name, func(t *testing.T) { confinedOne(t, c, i) })
		}
	}
}

func confinedOne(t *testing.T, c container, i inspection) {
	if uid, _, _ := strings.Cut(i.Config.User, ":"); uid == "" || uid == "0" || uid == "root" {
		t.Errorf("it runs as user %q", i.Config.User)
	}
	h := i.HostConfig
	if !h.ReadonlyRootfs || h.Privileged {
		t.Errorf("its root is read-only %v, privileged %v", h.ReadonlyRootfs, h.Privileged)
	}
	if !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) != 0 {
		t.Errorf("it drops the capabilities %v and adds %v", h.CapDrop, h.CapAdd)
	}
	if !slices.ContainsFunc(h.SecurityOpt, func(o string) bool {
		return strings.HasPrefix(o, "no-new-privileges") && !strings.HasSuffix(o, "false")
	}) {
		t.Errorf("its security options are %v", h.SecurityOpt)
	}
	if h.Memory == 0 || h.NanoCpus == 0 {
		t.Errorf("it has no limits: memory %d, cpus %d", h.Memory, h.NanoCpus)
	}
	if h.LogConfig.Type != "json-file" || h.LogConfig.Config["max-size"] == "" || h.LogConfig.Config["max-file"] == "" {
		t.Errorf("its log is not rotated: %+v", h.LogConfig)
	}
	for _, m := range i.Mounts {
		state := strings.HasPrefix(m.Destination, "/site/data/")
		if m.RW && !state {
			t.Errorf("it can write to %s", m.Destination)
		}
		if rest, ok := strings.CutPrefix(m.Destination, "/site/secrets"); ok && strings.Trim(rest, "/") == "" {
			t.Errorf("it sees all of the site's secrets")
		}
	}
}
