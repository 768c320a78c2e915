package rfc2136_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/internal/bindtest"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

var (
	e1 = domain.NewEpoch(0, 1, 1)
	e2 = domain.NewEpoch(0, 2, 2)
	e3 = domain.NewEpoch(0, 3, 1)
)

func client(t *testing.T, s *bindtest.Server, epochTXT bool) *rfc2136.Client {
	t.Helper()
	c, err := rfc2136.New(rfc2136.Config{Server: s.Addr, Zone: bindtest.Zone, Key: s.Key, EpochTXT: epochTXT})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func move(name, old, to string, e domain.Epoch) zone.Change {
	return zone.Change{Name: name + "." + bindtest.Zone, Type: zone.A, Old: old, New: to, TTL: 5, Group: "erp", Epoch: e}
}

func change(t *testing.T, c *rfc2136.Client, ch zone.Change) zone.Outcome {
	t.Helper()
	out, err := c.Change(t.Context(), ch)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func refused(t *testing.T, c *rfc2136.Client, ch zone.Change, want error, says ...string) {
	t.Helper()
	_, err := c.Change(t.Context(), ch)
	if !errors.Is(err, want) {
		t.Fatalf("change %+v: error %v, want %v", ch, err, want)
	}
	if domain.Code(err) != domain.Code(want) {
		t.Errorf("code %s, want %s: %v", domain.Code(err), domain.Code(want), err)
	}
	for _, s := range append(says, strings.TrimSuffix(ch.Name, bindtest.Zone)) {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func stands(t *testing.T, c *rfc2136.Client, name, value string) {
	t.Helper()
	r, err := c.Lookup(t.Context(), name+"."+bindtest.Zone, zone.A)
	if value == "" && !errors.Is(err, domain.ErrNotFound) || value != "" && (err != nil || r.Value != value) {
		t.Fatalf("%s: %+v, %v, want %q", name, r, err, value)
	}
}

func TestBINDTakesTheChangeAndRefusesAStaleMover(t *testing.T) {
	s := bindtest.Start(t)
	for _, epochTXT := range []bool{false, true} {
		t.Run(fmt.Sprintf("epoch record %v", epochTXT), func(t *testing.T) {
			c, vm := client(t, s, epochTXT), fmt.Sprintf("vm-%v", epochTXT)
			out := change(t, c, move(vm, "", "10.0.0.1", e1)) // no record yet
			if !out.Changed || out.Before != "" || out.Record.Value != "10.0.0.1" || out.Record.TTL != 5 {
				t.Fatalf("%+v", out)
			}
			out = change(t, c, move(vm, "10.0.0.1", "10.1.0.1", e2))
			if !out.Changed || out.Before != "10.0.0.1" {
				t.Fatalf("%+v", out)
			}
			stands(t, c, vm, "10.1.0.1")
			out = change(t, c, move(vm, "10.0.0.1", "10.1.0.1", e2)) // again
			if out.Changed || out.Before != "10.0.0.1" {
				t.Fatalf("a repeat: %+v", out)
			}
			refused(t, c, move(vm, "10.0.0.1", "10.2.0.1", e2), domain.ErrConflict, "expected 10.0.0.1", "found 10.1.0.1")
			refused(t, c, move(vm, "", "10.2.0.1", e3), domain.ErrConflict, "expected nothing")
			stands(t, c, vm, "10.1.0.1")
			longer := move(vm, "10.1.0.1", "10.1.0.1", e2)
			longer.TTL = 300
			if out = change(t, c, longer); !out.Changed || out.Record.TTL != 300 {
				t.Fatalf("a change of TTL alone: %+v", out)
			}
			change(t, c, move(vm, "10.1.0.1", "", e3))
			stands(t, c, vm, "")
			change(t, c, zone.Change{Name: vm + "." + bindtest.Zone, Type: zone.AAAA, New: "2001:db8::1", Group: "erp", Epoch: e3})
		})
	}
}

func TestBINDHoldsTheEpoch(t *testing.T) {
	c := client(t, bindtest.Start(t), true)
	change(t, c, move("erp", "10.0.0.1", "10.1.0.1", e2)) // a record that had no epoch yet
	refused(t, c, move("erp", "10.1.0.1", "10.0.0.1", e1), domain.ErrStaleEpoch, "0.1.1", "0.2.2")
	refused(t, c, move("erp", "10.0.0.1", "10.1.0.1", e1), domain.ErrStaleEpoch)
	other := move("erp", "10.1.0.1", "10.0.0.1", e3)
	other.Group = "crm"
	refused(t, c, other, domain.ErrRefused, "group erp")
	refused(t, c, move("foreign", "", "10.0.0.1", e3), domain.ErrRefused, "somebody else's")
	stands(t, c, "erp", "10.1.0.1")
	if out := change(t, c, move("erp", "10.0.0.1", "10.1.0.1", e3)); !out.Changed { // it takes on the epoch
		t.Fatalf("%+v", out)
	}
	refused(t, c, move("erp", "10.1.0.1", "10.0.0.1", e2), domain.ErrStaleEpoch)
	change(t, c, zone.Change{Name: "erp." + bindtest.Zone, Type: zone.AAAA, New: "2001:db8::1", Group: "erp", Epoch: e3})
	takeover := zone.Change{Name: "erp." + bindtest.Zone, Type: zone.A, New: "10.9.0.1", OldIsAny: true, Group: "erp", Epoch: domain.NewEpoch(0, 4, 2)}
	if out := change(t, c, takeover); out.Before != "10.1.0.1" {
		t.Fatalf("%+v", out)
	}
	r, err := c.Lookup(t.Context(), "erp."+bindtest.Zone, zone.A)
	if err != nil || r.Value != "10.9.0.1" || r.Group != "erp" || r.Epoch != takeover.Epoch {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestBINDRefusesAWrongKeyAndTheErrorNamesTheMend(t *testing.T) {
	s := bindtest.Start(t)
	for _, tc := range []struct {
		name string
		cfg  rfc2136.Config
		vm   string
		says []string
	}{
		{"wrong secret", rfc2136.Config{Key: rfc2136.Key{Name: s.Key.Name, Secret: base64.StdEncoding.EncodeToString([]byte("wrong"))}}, "erp", []string{"BADSIG", "secret"}},
		{"unknown key", rfc2136.Config{Key: rfc2136.Key{Name: "stranger", Secret: s.Key.Secret}}, "erp", []string{"BADKEY", "key stranger."}},
		{"another algorithm", rfc2136.Config{Key: rfc2136.Key{Name: s.Key.Name, Algorithm: "hmac-sha512", Secret: s.Key.Secret}}, "erp", []string{"algorithm"}},
		{"a key that may not", rfc2136.Config{Key: s.Read}, "erp", []string{"REFUSED", "update-policy"}},
		{"a name it may not", rfc2136.Config{Key: s.Key}, "fixed", []string{"REFUSED", "update-policy"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Server, tc.cfg.Zone = s.Addr, bindtest.Zone
			c, err := rfc2136.New(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, c, move(tc.vm, "10.0.0.1", "10.1.0.1", e1), domain.ErrRefused, tc.says...)
			stands(t, c, tc.vm, "10.0.0.1")
			if _, err := c.Change(t.Context(), move(tc.vm, "10.0.0.1", "10.1.0.1", e1)); strings.Contains(err.Error(), tc.cfg.Key.Secret) {
				t.Error("the error shows the secret")
			}
		})
	}
	c, err := rfc2136.New(rfc2136.Config{Server: s.Addr, Zone: "other.example", Key: s.Key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Change(t.Context(), zone.Change{Name: "erp.other.example", Type: zone.A, New: "10.0.0.1", Group: "erp", Epoch: e1}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("a zone the server lacks: %v", err)
	}
}

func TestBINDRefusesAClockThatIsOffAndTheErrorSaysHowFar(t *testing.T) {
	s := bindtest.Start(t)
	for off, says := range map[time.Duration]string{time.Hour: "ahead of the server", -time.Hour: "behind the server"} {
		c, err := rfc2136.New(rfc2136.Config{Server: s.Addr, Zone: bindtest.Zone, Key: s.Key, Now: func() time.Time { return time.Now().Add(off) }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Change(t.Context(), move("erp", "10.0.0.1", "10.1.0.1", e1))
		if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "BADTIME") || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "NTP") {
			t.Fatalf("%v off: %v", off, err)
		}
		if !strings.Contains(err.Error(), "1h0m") && !strings.Contains(err.Error(), "59m5") { // a test that crosses a second
			t.Errorf("the error does not say how far apart the clocks are: %v", err)
		}
	}
	stands(t, client(t, s, false), "erp", "10.0.0.1")
}

func TestBINDsOtherRecordsAreNotOverwritten(t *testing.T) {
	c := client(t, bindtest.Start(t), false)
	refused(t, c, move("two", "10.0.0.1", "10.1.0.1", e1), domain.ErrConflict, "10.0.0.1 and 10.0.0.2")
	refused(t, c, move("alias", "", "10.1.0.1", e1), domain.ErrConflict, "alias of erp.corp.example.")
	any := move("two", "", "10.1.0.1", e1)
	any.OldIsAny = true
	if out := change(t, c, any); out.Before != "10.0.0.1 and 10.0.0.2" {
		t.Errorf("%+v", out)
	}
}

// Many movers with the same view: the server itself decides, and one wins.
func TestBINDLetsOneOfManyMoversWin(t *testing.T) {
	s := bindtest.Start(t)
	for _, epochTXT := range []bool{false, true} {
		vm, movers := fmt.Sprintf("race-%v", epochTXT), 16
		change(t, client(t, s, epochTXT), move(vm, "", "10.0.0.1", e1))
		var mu sync.Mutex
		var won []string
		var wg sync.WaitGroup
		for i := range movers {
			wg.Go(func() {
				to := fmt.Sprintf("10.1.0.%d", i+1)
				_, err := client(t, s, epochTXT).Change(t.Context(), move(vm, "10.0.0.1", to, e2))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, to)
				} else if !errors.Is(err, domain.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d movers won: %v", len(won), won)
		}
		stands(t, client(t, s, epochTXT), vm, won[0])
	}
}

func TestAServerThatDoesNotAnswerIsUnavailableInTime(t *testing.T) {
	s := bindtest.Start(t)
	c, err := rfc2136.New(rfc2136.Config{Server: s.Addr, Zone: bindtest.Zone, Key: s.Key, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	refused(t, c, move("erp", "10.0.0.1", "10.1.0.1", e1), domain.ErrUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Change(ctx, move("erp", "10.0.0.1", "10.1.0.1", e1)); !errors.Is(err, domain.ErrUnavailable) {
		t.Fatalf("cancelled: %v", err)
	}
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("took %s", d)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	change(t, client(t, s, false), move("erp", "10.0.0.1", "10.1.0.1", e1))
}
