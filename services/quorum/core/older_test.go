package core_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// TestOfTwoRecordsOfOneVoterTheEarlierIsOlder asks voters anything, and compares what they stored.
func TestOfTwoRecordsOfOneVoterTheEarlierIsOlder(t *testing.T) {
	const lives, requests = 200, 60
	for seed := range uint64(lives) {
		r := rand.New(rand.NewPCG(seed, 1))
		v := core.NewVoter("v", core.Record{}, core.Volatile{})
		var stored []core.Record
		now := core.Instant(time.Minute)
		for range requests {
			now = now.Add(time.Duration(r.Int64N(int64(3 * time.Second))))
			site := 1 + r.IntN(2)
			e := domain.NewEpoch(0, max(1, v.Record().Promised.Counter()+r.IntN(4)-1), site)
			if r.IntN(2) == 0 {
				e = max(e, v.Record().Promised) // often one that is not refused
			}
			from := []domain.SiteID{"a", "b"}[e.Site()-1]
			req := core.Request{Verb: core.Verbs()[r.IntN(len(core.Verbs()))], From: from, Epoch: e, Seq: uint64(r.IntN(20)), G: time.Second,
				Reg: &core.Register{WE: e, Seq: uint64(r.IntN(6))}}
			if r.IntN(2) == 0 {
				req.Successor = "a"
			}
			if have := v.Record(); req.Verb == core.Accept && have.VEpoch == e && have.VHolder == "" {
				continue // nobody asks for an epoch again that it released
			}
			if v.Handle(now, req).Persist {
				stored = append(stored, v.Record())
			}
		}
		for i, early := range stored {
			for _, late := range stored[i:] {
				if late.OlderThan(early) {
					t.Fatalf("seed %d: %+v is older than what was stored before it, %+v", seed, late, early)
				}
			}
			if i > 0 && !stored[i-1].OlderThan(early) && !same(stored[i-1], early) {
				t.Fatalf("seed %d: %+v is not older than %+v, which was stored after it", seed, stored[i-1], early)
			}
		}
		if len(stored) < 5 {
			t.Fatalf("seed %d: %d records", seed, len(stored))
		}
	}
}

// same is of the same vote: what was asked for again is stored again.
func same(a, b core.Record) bool {
	return a.Promised == b.Promised && a.VEpoch == b.VEpoch && a.VHolder == b.VHolder && a.ReservedFor == b.ReservedFor && a.Reg.WE == b.Reg.WE && a.Reg.Seq == b.Reg.Seq
}
