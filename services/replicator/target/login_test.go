package target

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

var (
	oneWay = &CHAP{User: "vm1", Secret: []byte("secret of vm one")}
	mutual = &CHAP{User: "vm1", Secret: []byte("secret of vm one"), MutualUser: "target", MutualSecret: []byte("secret of target")}
)

func TestLoginNegotiatesByTheBook(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login(kv("HeaderDigest", "CRC32C,None", "DataDigest", "None,CRC32C", "InitialR2T", "Yes", "ImmediateData", "Yes",
		"MaxBurstLength", "16776192", "FirstBurstLength", "65536", "MaxOutstandingR2T", "1", "MaxConnections", "8",
		"ErrorRecoveryLevel", "2", "DefaultTime2Wait", "0", "DefaultTime2Retain", "20", "DataPDUInOrder", "No",
		"DataSequenceInOrder", "No", "IFMarker", "Yes", "X-com.example.fast", "Yes", "iSCSIProtocolLevel", "2")...)
	for key, want := range map[string]string{"HeaderDigest": "CRC32C", "DataDigest": "None", "InitialR2T": "Yes", "ImmediateData": "Yes",
		"MaxBurstLength": "1048576", "FirstBurstLength": "65536", "MaxOutstandingR2T": "1", "MaxConnections": "1",
		"ErrorRecoveryLevel": "0", "DefaultTime2Wait": "2", "DefaultTime2Retain": "0", "DataPDUInOrder": "Yes",
		"DataSequenceInOrder": "Yes", "IFMarker": "No", "X-com.example.fast": "NotUnderstood", "MaxRecvDataSegmentLength": "262144",
		"TargetPortalGroupTag": "1", "iSCSIProtocolLevel": "1"} {
		if got, _ := c.keys.Get(key); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestLoginIsRefusedWithItsReason(t *testing.T) {
	b := newBench(t, Config{}, nil)
	toFull := iscsi.Login{Transit: true, CSG: 1, NSG: 3}
	for name, c := range map[string]struct {
		req    iscsi.Login
		keys   []iscsi.Pair
		status uint16
	}{
		"no initiator":   {toFull, kv("TargetName", testIQN), iscsi.LoginMissingParameter},
		"no target":      {toFull, kv("InitiatorName", "i"), iscsi.LoginMissingParameter},
		"unknown target": {toFull, kv("InitiatorName", "i", "TargetName", "iqn.2026-11.test:other"), iscsi.LoginTargetNotFound},
		"session type":   {toFull, kv("InitiatorName", "i", "TargetName", testIQN, "SessionType", "Odd"), iscsi.LoginSessionType},
		"bad value":      {toFull, kv("InitiatorName", "i", "TargetName", testIQN, "MaxBurstLength", "1"), iscsi.LoginInitiatorError},
		"bad boolean":    {toFull, kv("InitiatorName", "i", "TargetName", testIQN, "InitialR2T", "Maybe"), iscsi.LoginInitiatorError},
		"no session":     {iscsi.Login{Transit: true, CSG: 1, NSG: 3, TSIH: 77}, kv("InitiatorName", "i", "TargetName", testIQN), iscsi.LoginNoSession},
		"version":        {iscsi.Login{Transit: true, CSG: 1, NSG: 3, VersionMin: 1, VersionMax: 1}, nil, iscsi.LoginUnsupportedVersion},
		"stage":          {iscsi.Login{Transit: true, CSG: 1, NSG: 0}, nil, iscsi.LoginInvalidRequest},
		"only chap":      {iscsi.Login{CSG: 0, NSG: 1}, kv("InitiatorName", "i", "TargetName", testIQN, "AuthMethod", "CHAP"), iscsi.LoginAuthFailure},
	} {
		t.Run(name, func(t *testing.T) {
			cl := b.dial()
			cl.t = t
			rsp, _ := cl.loginStep(c.req, c.keys)
			if rsp.Status != c.status {
				t.Errorf("status %04x, want %04x", rsp.Status, c.status)
			}
			cl.gone()
		})
	}
}

func TestLoginTextMayComeInParts(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.dial()
	whole := string(iscsi.Pairs(kv("InitiatorName", c.name, "TargetName", testIQN, "X-long", strings.Repeat("v", 3000))).Encode())
	req := iscsi.Login{Continue: true, CSG: 1, NSG: 3, CmdSN: 1, ISID: [6]byte{0x80}}
	for len(whole) > 1000 {
		c.send(req, []byte(whole[:1000]))
		whole = whole[1000:]
		if rsp := iscsi.ParseLoginResponse(c.recv()); rsp.Status != 0 || rsp.Transit {
			t.Fatalf("part answered with %+v", rsp)
		}
	}
	req.Continue, req.Transit = false, true
	c.send(req, []byte(whole))
	if rsp := iscsi.ParseLoginResponse(c.recv()); rsp.Status != 0 || !rsp.Transit {
		t.Fatalf("got %+v", rsp)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestCHAP(t *testing.T) {
	for name, c := range map[string]struct {
		target, initiator *CHAP
		status            uint16
	}{
		"right":                     {oneWay, oneWay, 0},
		"mutual":                    {mutual, mutual, 0},
		"one way where mutual may":  {mutual, oneWay, 0},
		"wrong secret":              {oneWay, &CHAP{User: "vm1", Secret: []byte("another secret..")}, iscsi.LoginAuthFailure},
		"wrong user":                {oneWay, &CHAP{User: "vm2", Secret: oneWay.Secret}, iscsi.LoginAuthFailure},
		"missing":                   {oneWay, nil, iscsi.LoginAuthFailure},
		"mutual without a secret":   {oneWay, mutual, iscsi.LoginAuthFailure},
		"offered but not necessary": {nil, oneWay, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{}, c.target)
			cl := b.dial()
			cl.secret = c.initiator
			if c.target == nil { // AuthMethod=CHAP,None is answered None
				rsp, out := cl.loginStep(iscsi.Login{Transit: true, CSG: 0, NSG: 1}, kv("InitiatorName", cl.name, "TargetName", testIQN, "AuthMethod", "CHAP,None"))
				if m, _ := out.Get("AuthMethod"); rsp.Status != 0 || m != "None" || !rsp.Transit {
					t.Fatalf("%+v %v", rsp, out)
				}
				return
			}
			if got := cl.login(); got != c.status {
				t.Fatalf("status %04x, want %04x", got, c.status)
			}
			if c.status == 0 {
				cl.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
			}
		})
	}
}

func TestCHAPChallengeIsNotReflected(t *testing.T) {
	b := newBench(t, Config{}, mutual)
	c := b.dial()
	req := iscsi.Login{CSG: 0, NSG: 1}
	c.loginStep(req, kv("InitiatorName", c.name, "TargetName", testIQN, "AuthMethod", "CHAP"))
	_, out := c.loginStep(req, kv("CHAP_A", "5"))
	ch, err := iscsi.ParseChallenge(out)
	if err != nil {
		t.Fatal(err)
	}
	answer := iscsi.Pairs(kv("CHAP_N", "vm1", "CHAP_R", iscsi.EncodeBinary(ch.Response(mutual.Secret))))
	ch.Add(&answer)
	req.Transit = true
	if rsp, _ := c.loginStep(req, answer); rsp.Status != iscsi.LoginAuthFailure {
		t.Fatalf("a reflected challenge got status %04x", rsp.Status)
	}
}

func TestSecurityStageCannotBeSkipped(t *testing.T) {
	b := newBench(t, Config{}, oneWay)
	for _, req := range []iscsi.Login{{Transit: true, CSG: 1, NSG: 3}, {Transit: true, CSG: 0, NSG: 1}, {Transit: true, CSG: 0, NSG: 3}} {
		c := b.dial()
		if rsp, _ := c.loginStep(req, kv("InitiatorName", c.name, "TargetName", testIQN)); rsp.Status != iscsi.LoginAuthFailure {
			t.Errorf("%+v: status %04x", req, rsp.Status)
		}
	}
}

func TestDiscoveryListsWhatOneMayLogInTo(t *testing.T) {
	b := newBench(t, Config{}, oneWay)
	who := kv("InitiatorName", "iqn.i", "SessionType", "Discovery", "AuthMethod", "None")
	c := b.dial()
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 0, NSG: 1}, who); rsp.Status != iscsi.LoginAuthFailure {
		t.Fatalf("discovery of protected targets only: status %04x", rsp.Status)
	}
	if err := b.srv.AddTarget("iqn.2026-11.test:open", map[int]Unit{3: newMemUnit(4096)}, nil); err != nil {
		t.Fatal(err)
	}
	c = b.dial()
	if rsp, _ := c.loginStep(iscsi.Login{Transit: true, CSG: 0, NSG: 3}, who); rsp.Status != 0 {
		t.Fatalf("status %04x", rsp.Status)
	}
	c.send(iscsi.Text{Final: true, ITT: 9, TTT: iscsi.NoTag, CmdSN: c.cmdSN}, []byte("SendTargets=All\x00"))
	p := c.recv()
	if got, want := string(p.Data), "TargetName=iqn.2026-11.test:open\x00TargetAddress="+b.addr+",1\x00"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	c.cmdSN++
	cmd := c.command(iscsi.TestUnitReadyCDB(), 0, false)
	c.send(cmd, nil)
	if ops := c.gone(); len(ops) != 1 || ops[0] != iscsi.OpReject {
		t.Fatalf("a command in a discovery session: %v", ops)
	}
}
