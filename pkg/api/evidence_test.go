package api

import (
	"testing"
	"time"
)

func TestAWindowIsOpenWhereTheClockIsBehind(t *testing.T) {
	at := time.Unix(1e9, 0)
	m := Maintenance{From: at, Until: at.Add(time.Hour)}
	if !m.Active(at.Add(-time.Minute)) || m.Active(m.Until) {
		t.Error("want it open from when it is known until it is over")
	}
	if m.Ended = at; m.Active(at) {
		t.Error("open though a person ended it")
	}
}
