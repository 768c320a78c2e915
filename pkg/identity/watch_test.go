package identity

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestConnectionsAreMadeAnewForTheirOwnNewKeysOnly: a change of the installation that another site's rotation or a retirement
// makes shows the servers nothing new of this principal; a rotation of its own site does.
func TestConnectionsAreMadeAnewForTheirOwnNewKeysOnly(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spec := Spec{Cluster: "main", Site: "a", Role: domain.SiteData, Index: 1, Addresses: []string{"localhost"}, NATS: "tls://localhost:4222"}
	_, err := Found(dir, spec, Options{})
	must(err)
	auth, err := OpenAuthority(dir, Options{})
	must(err)
	creds, err := Open(SecretsDir(dir), "quorum")
	must(err)
	first := creds.current()
	time.Sleep(1100 * time.Millisecond) // a token's moment is in whole seconds
	inst, err := auth.change(func(*state) error { return nil })
	must(err)
	must(Install(dir, inst))
	second := creds.current()
	if second == first || second.inst.Serial == first.inst.Serial {
		t.Fatal("the new installation is not in use")
	}
	if second.jwt == first.jwt && second.away == first.away {
		t.Fatal("the tokens were not signed again: this test shows nothing")
	}
	if !second.shows(first) {
		t.Error("an installation that changes nothing of this principal is taken for new credentials")
	}
	card, err := Renew(dir, nil)
	must(err)
	inst, err = auth.Reissue(false, card)
	must(err)
	must(Install(dir, inst))
	if creds.current().shows(second) {
		t.Error("new keys are not taken for new credentials")
	}
}
