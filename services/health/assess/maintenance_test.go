package assess

import (
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Names may hold '-': the link of a-b and c is no link of a.
func TestAWindowOfASiteSilencesItsOwnLinksOnly(t *testing.T) {
	d := &decision{in: Input{Sites: []domain.SiteID{"a", "a-b", "c"}, Maintenance: []api.Part{{Kind: KindSite, Site: "a", ID: "a"}}}}
	for link, want := range map[string]bool{"a-c": true, "a-a-b": true, "a-b-c": false} {
		if got := d.linkSilenced(link); got != want {
			t.Errorf("link %s: silenced %v, want %v", link, got, want)
		}
		if got := d.silenced(api.Observation{Kind: KindLink, ID: link, Site: "c"}); got != want {
			t.Errorf("observed link %s: silenced %v, want %v", link, got, want)
		}
	}
}
