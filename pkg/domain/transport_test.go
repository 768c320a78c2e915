package domain

import (
	"encoding/json"
	"testing"
	"time"
)

func TestScheduleSaysTheRateByDayAndTime(t *testing.T) {
	week := Transport{RateLimit: 100, Schedule: []RateWindow{
		{Days: []Day{"mon", "tue", "wed", "thu", "fri"}, From: "08:00", To: "18:00", RateLimit: 10},
		{Days: []Day{"fri"}, From: "22:00", To: "06:00", RateLimit: 0}, // into Saturday
		{Days: []Day{"sun"}, From: "00:00", To: "24:00", RateLimit: 50},
		{Days: []Day{"mon"}, From: "09:00", To: "10:00", RateLimit: 1}, // the first counts
		{From: "nonsense", To: "24:00", RateLimit: 2},
	}}
	for _, c := range []struct {
		at   string
		want Rate
	}{
		{"Mon 2026-11-02 07:59:59", 100}, {"Mon 2026-11-02 08:00:00", 10}, {"Mon 2026-11-02 09:30:00", 10}, {"Mon 2026-11-02 17:59:59", 10}, {"Mon 2026-11-02 18:00:00", 100},
		{"Fri 2026-11-06 22:00:00", 0}, {"Sat 2026-11-07 05:59:00", 0}, {"Sat 2026-11-07 06:00:00", 100}, {"Thu 2026-11-05 23:00:00", 100}, {"Fri 2026-11-06 05:00:00", 100},
		{"Sun 2026-11-08 00:00:00", 50}, {"Sun 2026-11-08 23:59:59", 50}, {"Sat 2026-11-07 12:00:00", 100},
	} {
		at, err := time.Parse("Mon 2006-01-02 15:04:05", c.at)
		if err != nil {
			t.Fatal(err)
		}
		if got := week.Rate(at); got != c.want {
			t.Errorf("%s: %d, want %d", c.at, got, c.want)
		}
	}
	if got := (Transport{}).Rate(time.Now()); got != 0 {
		t.Errorf("the zero value limits to %d", got)
	}
	allDay := Transport{Schedule: []RateWindow{{From: "12:00", To: "12:00", RateLimit: 7}}}
	if got := allDay.Rate(time.Date(2026, 11, 2, 11, 0, 0, 0, time.UTC)); got != 7 {
		t.Errorf("a window from noon to noon says %d at 11", got)
	}
}

func TestTransportOfAPair(t *testing.T) {
	g := Group{Home: "a", Targets: []Target{{Site: "b", Transport: Transport{RateLimit: 1}}, {Site: "c", Transport: Transport{RateLimit: 2}}}}
	for _, c := range []struct {
		from, to SiteID
		want     Rate
	}{{"a", "b", 1}, {"b", "a", 1}, {"a", "c", 2}, {"c", "a", 2}, {"b", "c", 2}, {"c", "b", 1}, {"a", "z", 0}} {
		if got := g.TransportTo(c.from, c.to).RateLimit; got != c.want {
			t.Errorf("%s to %s: %d, want %d", c.from, c.to, got, c.want)
		}
	}
}

func TestRateAsTextAndJSON(t *testing.T) {
	for text, want := range map[string]Rate{"0": 0, "512KiB": 512 << 10, "10MiB": 10 << 20, "1GiB": 1 << 30} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%s: %d, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "10", "-1MiB", "fast", "MiB", "99999999999GiB"} {
		if err := new(Rate).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	raw, err := json.Marshal(Transport{RateLimit: 5, Schedule: []RateWindow{{From: "08:00", To: "09:00", RateLimit: 6}}, Compression: CompressionS2})
	var back Transport
	if err != nil || json.Unmarshal(raw, &back) != nil || back.RateLimit != 5 || back.Schedule[0].RateLimit != 6 || back.Compression != CompressionS2 {
		t.Errorf("%s: %+v", raw, back)
	}
	if json.Unmarshal([]byte("-5"), new(Rate)) == nil {
		t.Error("a negative rate was taken")
	}
}

func TestAWindowThatIsNotGivenIsTheDefault(t *testing.T) {
	var older Transport // as a record of before there were windows has it
	if err := json.Unmarshal([]byte(`{"rate_limit":5}`), &older); err != nil || older.WindowBytes() != DefaultWindow {
		t.Errorf("%v: %s", err, older.WindowBytes())
	}
	if !older.Equal(Transport{RateLimit: 5, Window: DefaultWindow}) || older.Equal(Transport{RateLimit: 5, Window: 4 << 20}) {
		t.Error("windows are told apart by what was written, not by what they are")
	}
	var w Bytes
	if err := w.UnmarshalText([]byte("4MiB")); err != nil || (Transport{Window: w}).String() != ", window 4MiB" || older.String() != ", at most 5 a second" {
		t.Errorf("%v: %q, %q", err, Transport{Window: w}, older)
	}
	raw, err := json.Marshal(Transport{Window: w})
	var back Transport
	if err != nil || string(raw) != `{"window":4194304}` || json.Unmarshal(raw, &back) != nil || back.Window != w {
		t.Errorf("%v: %s: %+v", err, raw, back)
	}
	for _, text := range []string{"", "4", "4MB", "-1MiB", "0.5MiB"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if json.Unmarshal([]byte("-5"), new(Bytes)) == nil {
		t.Error("a negative window was taken")
	}
}
