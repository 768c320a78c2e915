package bus

import (
	"slices"
	"testing"
	"time"
)

// TestEveryRefusalIsToldOnceWhateverTheOrderOfItsEnd: a handshake that hangs ends after later ones, a standing connection is
// ended by a revocation, and a server that was started again counts its connections from 1.
func TestEveryRefusalIsToldOnceWhateverTheOrderOfItsEnd(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC) }
	tls, revoked := "TLS Handshake Failure", "Credentials Revoked"
	m := &Monitor{}
	told := func(want []string, all ...closedConn) {
		t.Helper()
		var got []string
		for _, r := range m.fresh(all) {
			got = append(got, r.Address)
		}
		if !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
	}
	nine := closedConn{CID: 9, IP: "quick", Reason: tls, Stop: at(3)}
	four := closedConn{CID: 4, IP: "slow", Reason: tls, Stop: at(5)}
	two := closedConn{CID: 2, IP: "revoked", Reason: revoked, Stop: at(4)}
	good := closedConn{CID: 3, IP: "good", Reason: "Client Closed", Stop: at(4)}
	told([]string{"quick"}, nine)
	told(nil, nine)
	told([]string{"revoked", "slow"}, two, good, four, nine)
	told(nil, two, good, four, nine)
	told([]string{"after a restart"}, closedConn{CID: 2, IP: "after a restart", Reason: tls, Stop: at(9)})
}
