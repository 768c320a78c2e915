package target

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func TestDiscoveryOfAThousandTargets(t *testing.T) {
	b := newBench(t, Config{Portal: "portal.example:3260"}, nil)
	unit := newMemUnit(4096)
	for i := range 999 {
		if err := b.srv.AddTarget(fmt.Sprintf("iqn.2026-11.test:volume%04d", i), map[int]Unit{0: unit}, nil); err != nil {
			t.Fatal(err)
		}
	}
	c := b.dial()
	if status := c.discover(); status != 0 {
		t.Fatalf("status %04x", status)
	}
	list := c.text("SendTargets=All\x00")
	if n := strings.Count(list, "TargetAddress=portal.example:3260,1\x00"); n != 1000 {
		t.Errorf("%d addresses", n)
	}
	names := map[string]bool{}
	for _, line := range strings.Split(list, "\x00") {
		if name, ok := strings.CutPrefix(line, "TargetName="); ok {
			names[name] = true
		}
	}
	if len(names) != 1000 {
		t.Errorf("%d targets", len(names))
	}
	c.send(iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseConnection, ITT: 70, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpReject {
		t.Errorf("%v answers a logout of the connection only, in a discovery session", p.Opcode())
	}
	c.send(iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: 71, CmdSN: c.cmdSN}, nil)
	if p := c.recv(); p.Opcode() != iscsi.OpLogoutResponse {
		t.Errorf("%v answers a logout", p.Opcode())
	}
}

// TestAResponseCountsTheTransfersItAskedFor holds ExpDataSN of a SCSI response to section 11.4.8.
func TestAResponseCountsTheTransfersItAskedFor(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login(kv("MaxBurstLength", "4096", "ImmediateData", "No")...)
	data := pattern(1, 16384)
	cmd := c.command(iscsi.Write16CDB(0, 32, false), 16384, true)
	c.send(cmd, nil)
	for range 4 {
		r := iscsi.ParseR2T(c.recv())
		c.answerR2T(r, data, 4096)
	}
	if r := iscsi.ParseSCSIResponse(c.recv()); r.Status != iscsi.StatusGood || r.ExpDataSN != 4 {
		t.Errorf("%+v", r)
	}
}
