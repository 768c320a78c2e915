package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// keepingUnit is a unit that keeps what it is told.
type keepingUnit struct {
	*memUnit

	mu   sync.Mutex
	kept []byte
	fail error
}

func (u *keepingUnit) Kept() ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.kept, u.fail
}

func (u *keepingUnit) Keep(b []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fail == nil {
		u.kept = bytes.Clone(b)
	}
	return u.fail
}

func (u *keepingUnit) set(fail error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fail = fail
}

// powerLost serves the unit anew, as after a loss of power: no session, and no state but what the unit kept.
func (b *bench) powerLost(u Unit) {
	b.t.Helper()
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		b.t.Fatal(err)
	}
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: u}, nil); err != nil {
		b.t.Fatal(err)
	}
}

func newKeeping(t *testing.T) (*bench, *keepingUnit) {
	t.Helper()
	b := newBench(t, Config{}, nil)
	u := &keepingUnit{memUnit: b.unit}
	b.powerLost(u)
	return b, u
}

func withFlags(list []byte, flags byte) []byte {
	list[20] = flags
	return list
}

func (c *client) register(old, key uint64, flags byte) result {
	c.t.Helper()
	return c.put(reserveOutCDB(outRegister, 0), withFlags(reserveKeys(old, key), flags))
}

func (c *client) reserveIn(action byte) []byte {
	c.t.Helper()
	r := c.do(iscsi.CDB{0: iscsi.PersistentReserveIn, 1: action, 7: 0x10}, 4096)
	if r.status != 0 {
		c.t.Fatalf("PERSISTENT RESERVE IN %d: %#x %v", action, r.status, r.sense)
	}
	return r.data
}

// keys is what READ KEYS tells.
func (c *client) keysThere() []uint64 {
	var out []uint64
	for b := c.reserveIn(readKeys)[8:]; len(b) >= 8; b = b[8:] {
		out = append(out, binary.BigEndian.Uint64(b))
	}
	return out
}

// reservation is the key and the type that READ RESERVATION tells, 0 and 0 for none.
func (c *client) reservation() (key uint64, kind byte) {
	if b := c.reserveIn(readReservation); len(b) == 24 {
		return binary.BigEndian.Uint64(b[8:]), b[21]
	}
	return 0, 0
}

func (c *client) nexus() string { return nexusOf(c.name, [6]byte{0x80, 0, 0, 0, 0, c.isid}) }

func TestReservationSurvivesALossOfPowerWhenItWasAskedTo(t *testing.T) {
	b, u := newKeeping(t)
	one := b.login()
	one.register(0, 0x11, flagAPTPL).want(t, iscsi.StatusGood)
	one.put(reserveOutCDB(outReserve, writeExclusiveRegistrantsOnly), reserveKeys(0x11, 0)).want(t, iscsi.StatusGood)
	b.powerLost(u)
	two := b.another()
	if key, kind := two.reservation(); key != 0x11 || kind != writeExclusiveRegistrantsOnly {
		t.Fatalf("key %#x, type %d after the power was back", key, kind)
	}
	two.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).want(t, iscsi.StatusReservationConflict)
	one = b.login()
	one.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).want(t, iscsi.StatusGood)
	if c := one.reserveIn(reportAbilities); c[2]&0x01 == 0 || c[3]&0x01 == 0 {
		t.Errorf("capabilities %x", c)
	}
	one.register(0x11, 0x12, 0).want(t, iscsi.StatusGood) // the last registration decides: not kept any more
	b.powerLost(u)
	one = b.login()
	if keys := one.keysThere(); len(keys) != 0 {
		t.Fatalf("keys %x", keys)
	}
}

func TestEveryChangeOfAKeptReservationIsKept(t *testing.T) {
	b, u := newKeeping(t)
	one, two := b.login(), b.another()
	one.register(0, 1, flagAPTPL).want(t, iscsi.StatusGood)
	two.register(0, 2, flagAPTPL).want(t, iscsi.StatusGood)
	steps := []struct {
		action byte
		from   **client
		kind   byte
		keys   []byte
	}{
		{outReserve, &one, exclusiveAccess, reserveKeys(1, 0)}, {outRelease, &one, exclusiveAccess, reserveKeys(1, 0)},
		{outReserve, &two, writeExclusiveAllRegistrants, reserveKeys(2, 0)}, {outRegister, &two, 0, withFlags(reserveKeys(2, 0), flagAPTPL)},
		{outRegisterIgnore, &two, 0, withFlags(reserveKeys(0, 3), flagAPTPL)}, {outPreempt, &one, exclusiveAccess, reserveKeys(1, 0)},
		{outClear, &one, 0, reserveKeys(1, 0)},
	}
	for i, s := range steps {
		(*s.from).put(reserveOutCDB(s.action, s.kind), s.keys).want(t, iscsi.StatusGood)
		before := fmt.Sprint(one.tidied().keysThere(), one.reserveIn(readReservation)[4:])
		b.powerLost(u)
		one, two = b.login(), b.another()
		if after := fmt.Sprint(one.keysThere(), one.reserveIn(readReservation)[4:]); after != before {
			t.Errorf("step %d: %s, before the power was lost %s", i, after, before)
		}
	}
	if len(u.kept) != 0 {
		t.Errorf("%q is kept of nothing", u.kept)
	}
}

// tidied takes the unit attentions that are there.
func (c *client) tidied() *client {
	for range 8 {
		if c.do(iscsi.TestUnitReadyCDB(), 0).sense.Key != iscsi.SenseUnitAttention {
			break
		}
	}
	return c
}

func TestReservationThatCannotBeKeptIsNotMade(t *testing.T) {
	b, u := newKeeping(t)
	c := b.login()
	u.set(errors.New("disk full"))
	c.register(0, 1, flagAPTPL).wantSense(t, iscsi.SenseHardwareError, iscsi.ASCInternalFailure)
	if keys := c.keysThere(); len(keys) != 0 {
		t.Fatalf("keys %x", keys)
	}
	u.set(nil)
	c.register(0, 0, 0).want(t, iscsi.StatusGood) // what is on the disk is not known: it is written though nothing changed
	c.register(0, 1, flagAPTPL).want(t, iscsi.StatusGood)
	if !strings.Contains(string(u.kept), `"key":1`) {
		t.Errorf("kept %q", u.kept)
	}
}

func TestUnreadableReservationsAreNeverTakenForNone(t *testing.T) {
	b, u := newKeeping(t)
	one := b.login()
	one.register(0, 0x11, flagAPTPL).want(t, iscsi.StatusGood)
	good := u.kept
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		t.Fatal(err)
	}
	for name, kept := range map[string]string{
		"no JSON": "x", "unknown key": `{"registrations":[{"nexus":"YQ==","key":1}],"more":1}`, "no registration": `{"registrations":[]}`,
		"key 0": `{"registrations":[{"nexus":"YQ==","key":0}]}`, "twice": `{"registrations":[{"nexus":"YQ==","key":1},{"nexus":"YQ==","key":1}]}`,
		"unregistered holder": `{"registrations":[{"nexus":"YQ==","key":1}],"holder":"Yg==","type":1}`,
		"unknown type":        `{"registrations":[{"nexus":"YQ==","key":1}],"holder":"YQ==","type":2}`,
		"cut":                 string(good[:len(good)-1]),
	} {
		u.kept = []byte(kept)
		if err := b.srv.AddTarget(testIQN, map[int]Unit{0: u}, nil); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	u.kept = good
	u.set(errors.New("no such disk"))
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: u}, nil); err == nil {
		t.Error("a unit that cannot be asked is served")
	}
}

func TestUnitThatKeepsNothingRefusesPersistenceAndForgetsWithItsTarget(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	c.register(0, 1, flagAPTPL).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInParams)
	if a := c.reserveIn(reportAbilities); a[2]&0x01 != 0 || a[3]&0x01 != 0 {
		t.Errorf("capabilities %x", a)
	}
	c.register(0, 1, 0).want(t, iscsi.StatusGood)
	c.put(reserveOutCDB(outReserve, exclusiveAccess), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
	b.powerLost(b.unit) // what a new epoch does
	two := b.another()
	two.put(iscsi.Write16CDB(0, 1, false), make([]byte, 512)).want(t, iscsi.StatusGood)
}

// specify is the parameter list of a REGISTER for others too.
func specify(key uint64, ids ...[]byte) []byte {
	all := bytes.Join(ids, nil)
	list := withFlags(reserveKeys(0, key), flagSpecIPT)
	return append(binary.BigEndian.AppendUint32(list, uint32(len(all))), all...)
}

func reserveOutLen(action byte, n int) iscsi.CDB {
	cdb := reserveOutCDB(action, 0)
	binary.BigEndian.PutUint32(cdb[5:], uint32(n))
	return cdb
}

func (c *client) out(action byte, list []byte) result {
	c.t.Helper()
	return c.put(reserveOutLen(action, len(list)), list)
}

func TestOneRegistersForOthers(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	three := b.dial()
	three.name = "iqn.2026-11.test:Another"
	if s := three.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	nameOnly := func(name string) []byte {
		id := transportID(name)
		id[0] = 0x05
		return id
	}
	ill, param := iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInParams
	one.out(outRegister, specify(7, nameOnly("iqn.2026-11.test:nobody-here"))).wantSense(t, ill, param)
	one.out(outRegister, specify(7, []byte{0x46, 0, 0, 4, 1, 2, 3, 4})).wantSense(t, ill, param)
	one.out(outRegister, specify(0, transportID(two.nexus()))).wantSense(t, ill, param)
	one.out(outRegister, specify(7)[:27]).wantSense(t, ill, iscsi.ASCParameterListLength)
	one.out(outRegisterIgnore, withFlags(reserveKeys(0, 7), flagSpecIPT)).wantSense(t, ill, param)
	if keys := one.keysThere(); len(keys) != 0 {
		t.Fatalf("keys %x after refusals", keys)
	}
	away := nexusOf("iqn.2026-11.test:later", [6]byte{0x80, 0, 0, 0, 0, 9})
	one.out(outRegister, specify(7, transportID(two.nexus()), nameOnly(three.name), transportID(away))).want(t, iscsi.StatusGood)
	if keys := fmt.Sprint(one.keysThere()); keys != "[7 7 7 7]" {
		t.Fatalf("keys %s", keys)
	}
	status := one.reserveIn(readFullStatus)
	for _, n := range []string{one.nexus(), two.nexus(), three.nexus(), away} {
		if !bytes.Contains(status, transportID(n)) {
			t.Errorf("%s is not registered", n)
		}
	}
	two.put(reserveOutCDB(outReserve, exclusiveAccess), reserveKeys(7, 0)).want(t, iscsi.StatusGood)
	later := b.dial()
	later.name, later.isid = "iqn.2026-11.test:later", 9
	if s := later.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	later.put(reserveOutCDB(outPreempt, exclusiveAccess), reserveKeys(7, 7)).want(t, iscsi.StatusGood)
}

func TestAllOrNothingIsRegistered(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	two.register(0, 2, 0).want(t, iscsi.StatusGood)
	fresh := transportID(nexusOf("iqn.2026-11.test:fresh", [6]byte{1}))
	one.out(outRegister, specify(1, fresh, transportID(two.nexus()))).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInParams)
	if keys := fmt.Sprint(one.keysThere()); keys != "[2]" {
		t.Fatalf("keys %s", keys)
	}
	var many [][]byte
	for i := range maxRegistrations {
		many = append(many, transportID(nexusOf("iqn.2026-11.test:x", [6]byte{1, 0, 0, 0, byte(i >> 8), byte(i)})))
	}
	one.out(outRegister, specify(1, many[:900]...)).want(t, iscsi.StatusGood)
	three := b.dial()
	three.isid = 3
	if s := three.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	three.out(outRegister, specify(1, many[900:]...)).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInsufficientRegistration)
}

// moveList is the parameter list of REGISTER AND MOVE.
func moveList(key, saKey uint64, flags byte, port uint16, id []byte) []byte {
	b := reserveKeys(key, saKey)
	b[17] = flags
	binary.BigEndian.PutUint16(b[18:], port)
	binary.BigEndian.PutUint32(b[20:], uint32(len(id)))
	return append(b, id...)
}

func TestReservationMovesToAPortThatIsNamed(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	to := transportID(two.nexus())
	one.register(0, 1, 0).want(t, iscsi.StatusGood)
	one.out(outRegisterMove, moveList(1, 2, 0, relativePort, to)).want(t, iscsi.StatusReservationConflict) // there is none
	one.put(reserveOutCDB(outReserve, exclusiveAccess), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
	ill, param := iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInParams
	one.out(outRegisterMove, moveList(1, 0, 0, relativePort, to)).wantSense(t, ill, param)
	one.out(outRegisterMove, moveList(1, 2, 0, 9, to)).wantSense(t, ill, param)
	one.out(outRegisterMove, moveList(1, 2, 0, relativePort, transportID(one.nexus()))).wantSense(t, ill, param)
	one.out(outRegisterMove, moveList(1, 2, 0, relativePort, to[:8])).wantSense(t, ill, param)
	two.out(outRegisterMove, moveList(1, 2, 0, relativePort, to)).want(t, iscsi.StatusReservationConflict)
	one.out(outRegisterMove, moveList(1, 2, flagUnreg, relativePort, to)).want(t, iscsi.StatusGood)
	if key, kind := two.reservation(); key != 2 || kind != exclusiveAccess || fmt.Sprint(two.keysThere()) != "[2]" {
		t.Fatalf("key %d, type %d, keys %v", key, kind, two.keysThere())
	}
	one.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusReservationConflict)
	two.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusGood)
}

func TestOthersHearOfWhatHappenedToTheirReservation(t *testing.T) {
	for name, c := range map[string]struct {
		kind, action byte
		keys         []byte
		asc          uint16 // what the second registrant hears, 0 for nothing
	}{
		"release, registrants only":    {writeExclusiveRegistrantsOnly, outRelease, reserveKeys(1, 0), iscsi.ASCReservationsReleased},
		"release, all registrants":     {exclusiveAccessAllRegistrants, outRelease, reserveKeys(1, 0), iscsi.ASCReservationsReleased},
		"release, exclusive":           {exclusiveAccess, outRelease, reserveKeys(1, 0), 0},
		"unregister, registrants only": {exclusiveAccessRegistrantsOnly, outRegister, reserveKeys(1, 0), iscsi.ASCReservationsReleased},
		"unregister, all registrants":  {writeExclusiveAllRegistrants, outRegister, reserveKeys(1, 0), 0},
		"clear":                        {writeExclusive, outClear, reserveKeys(1, 0), iscsi.ASCReservationsPreempted},
		"preempt":                      {writeExclusive, outPreempt, reserveKeys(1, 2), iscsi.ASCRegistrationsPreempted},
		"preempt everyone":             {writeExclusiveAllRegistrants, outPreempt, reserveKeys(1, 0), iscsi.ASCRegistrationsPreempted},
		"preempt and abort":            {writeExclusive, outPreemptAbort, reserveKeys(1, 2), iscsi.ASCRegistrationsPreempted},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{}, nil)
			one, two := b.login(), b.another()
			one.register(0, 1, 0).want(t, iscsi.StatusGood)
			two.register(0, 2, 0).want(t, iscsi.StatusGood)
			one.put(reserveOutCDB(outReserve, c.kind), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
			one.put(reserveOutCDB(c.action, c.kind), c.keys).want(t, iscsi.StatusGood)
			one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
			if c.asc != 0 {
				two.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, c.asc)
			}
			two.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
		})
	}
}

func TestAllRegistrantsHoldUntilTheLastOneLeaves(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.another()
	one.register(0, 1, flagAllPorts).want(t, iscsi.StatusGood)
	two.register(0, 2, 0).want(t, iscsi.StatusGood)
	one.put(reserveOutCDB(outReserve, exclusiveAccessAllRegistrants), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
	if s := one.reserveIn(readFullStatus); s[8+12] != 0x03 || s[8+13] != exclusiveAccessAllRegistrants {
		t.Errorf("full status %x", s)
	}
	one.register(1, 0, 0).want(t, iscsi.StatusGood)
	one.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusReservationConflict) // it made the reservation, and left
	two.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusGood)
	two.register(2, 0, 0).want(t, iscsi.StatusGood)
	one.do(iscsi.Read16CDB(0, 1), 512).want(t, iscsi.StatusGood)
}

func TestAReservedMediumIsMovedByItsHolderOnly(t *testing.T) {
	b := newRemovable(t)
	one, two := b.login(), b.another()
	one.register(0, 1, 0).want(t, iscsi.StatusGood)
	one.put(reserveOutCDB(outReserve, writeExclusive), reserveKeys(1, 0)).want(t, iscsi.StatusGood)
	two.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusReservationConflict)
	two.do(preventCDB(1), 0).want(t, iscsi.StatusReservationConflict)
	two.do(preventCDB(0), 0).want(t, iscsi.StatusGood)
	two.do(startStopCDB(startBit), 0).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
}

func TestWhoIsPreemptedWithAbortPreventsNothingAnyMore(t *testing.T) {
	b := newRemovable(t)
	one, two := b.login(), b.another()
	one.register(0, 1, 0).want(t, iscsi.StatusGood)
	two.register(0, 2, 0).want(t, iscsi.StatusGood)
	two.do(preventCDB(1), 0).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCMediumRemovalPrevented)
	one.put(reserveOutCDB(outPreemptAbort, writeExclusive), reserveKeys(1, 2)).want(t, iscsi.StatusGood)
	one.do(startStopCDB(loejBit), 0).want(t, iscsi.StatusGood)
}

func TestReservedUnitTakesNoMemoryForEachCommand(t *testing.T) {
	l := &lun{unit: newMemUnit(4096)}
	s := &session{nexusName: nexusOf("iqn.2026-11.test:x", [6]byte{1})}
	r := &reservations{holder: s.nexusName, kind: writeExclusiveRegistrantsOnly, list: []registration{{nexusOf("iqn.2026-11.test:y", [6]byte{2}), 1, false}, {s.nexusName, 2, false}}}
	l.held.now.Store(r)
	write := &task{s: s, lun: l, spec: &command{op: iscsi.Write16, access: accessWrite}}
	if n := testing.AllocsPerRun(100, func() {
		if l.conflicts(write) {
			t.Error("its holder may not write")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
