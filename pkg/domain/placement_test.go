package domain_test

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestAWindowHasItsTimesOnItsDays(t *testing.T) {
	for at, want := range map[string]bool{ // 2026-03-07 is a Saturday
		"2026-03-06T23:00": false, "2026-03-07T01:00": false, "2026-03-07T21:59": false, "2026-03-07T22:00": true, "2026-03-08T04:59": true, "2026-03-08T05:00": false,
	} {
		when, err := time.Parse("2006-01-02T15:04", at)
		if err != nil {
			t.Fatal(err)
		}
		back := domain.Return{After: time.Hour, Within: []domain.Window{{Days: []domain.Day{"sat"}, From: "22:00", To: "05:00"}}}
		if back.Open(when) != want {
			t.Errorf("%s: open %v", at, !want)
		}
		if !(domain.Return{After: time.Hour}).Open(when) {
			t.Errorf("%s: closed without a window", at)
		}
	}
}
