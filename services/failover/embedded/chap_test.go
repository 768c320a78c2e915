package embedded

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

func TestVMStartsOnlyWithTheRightCHAPSecretAndTheErrorHasTheMend(t *testing.T) {
	r := newRig(t)
	r.target.Guard(t, "main-a", "the right secret")
	as := func(secret string) func() initiator.CHAP {
		return func() initiator.CHAP { return initiator.CHAP{User: "main-a", Secret: secret} }
	}
	for name, c := range map[string]struct {
		chap func() initiator.CHAP
		says string
	}{
		"wrong":   {as("the wrong secret"), `as CHAP user "main-a": give iscsi.chap in this host's configuration the same user and secret`},
		"missing": {nil, "this host has no CHAP credentials: give iscsi.chap"},
	} {
		_, err := (&Driver{CHAP: c.chap}).Start(t.Context(), r.spec(1))
		if !errors.Is(err, initiator.ErrAuth) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "the wrong secret") {
			t.Errorf("%s: want the mend %q, got %v", name, c.says, err)
		}
	}
	vm, err := (&Driver{CHAP: as("the right secret")}).Start(t.Context(), r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill("end of the test")
	if seq, err := r.append(t); err != nil || seq != 1 {
		t.Fatal(seq, err)
	}
}

func TestVMThatReconnectsUsesTheSecretOfNow(t *testing.T) {
	r := newRig(t)
	r.target.Guard(t, "main-a", "the old secret")
	var secret atomic.Value
	secret.Store("the old secret")
	d := &Driver{CHAP: func() initiator.CHAP { return initiator.CHAP{User: "main-a", Secret: secret.Load().(string)} }}
	vm, err := d.Start(t.Context(), r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill("end of the test")
	r.target.Guard(t, "main-a", "the new secret")
	secret.Store("the new secret")
	if seq, err := r.append(t); err != nil || seq != 1 {
		t.Fatal("the session of before the change", seq, err)
	}
	r.target.Restart(t)
	if seq, err := r.append(t); err != nil || seq != 2 {
		t.Fatal(seq, err)
	}
}
