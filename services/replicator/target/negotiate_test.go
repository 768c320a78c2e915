package target

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// TestEveryKeyIsAnsweredByItsRule holds each key of RFC 7143 section 13 to its type, range and result function. "fails" is a
// login that is refused.
func TestEveryKeyIsAnsweredByItsRule(t *testing.T) {
	const fails = "fails"
	for _, c := range []struct{ key, value, want string }{
		{"HeaderDigest", "CRC32C", "CRC32C"}, {"HeaderDigest", "MD5,None", "None"}, {"HeaderDigest", "MD5", fails},
		{"DataDigest", "None,CRC32C", "None"}, {"DataDigest", "", fails},
		{"MaxConnections", "1", "1"}, {"MaxConnections", "65535", "1"}, {"MaxConnections", "0", fails}, {"MaxConnections", "65536", fails},
		{"InitialR2T", "Yes", "Yes"}, {"InitialR2T", "No", "No"}, {"InitialR2T", "yes", fails},
		{"ImmediateData", "No", "No"}, {"ImmediateData", "Yes", "Yes"}, {"ImmediateData", "1", fails},
		{"MaxRecvDataSegmentLength", "512", ""}, {"MaxRecvDataSegmentLength", "16777215", ""}, {"MaxRecvDataSegmentLength", "511", fails},
		{"MaxRecvDataSegmentLength", "16777216", fails},
		{"MaxBurstLength", "512", "512"}, {"MaxBurstLength", "0xffffff", "1048576"}, {"MaxBurstLength", "511", fails}, {"MaxBurstLength", "-1", fails},
		{"FirstBurstLength", "512", "512"}, {"FirstBurstLength", "16777215", "262144"}, {"FirstBurstLength", "0x", fails},
		{"DefaultTime2Wait", "0", "2"}, {"DefaultTime2Wait", "3600", "3600"}, {"DefaultTime2Wait", "3601", fails},
		{"DefaultTime2Retain", "3600", "0"}, {"DefaultTime2Retain", "x", fails},
		{"MaxOutstandingR2T", "1", "1"}, {"MaxOutstandingR2T", "65535", "8"}, {"MaxOutstandingR2T", "0", fails},
		{"DataPDUInOrder", "No", "Yes"}, {"DataSequenceInOrder", "No", "Yes"}, {"DataPDUInOrder", "Perhaps", fails},
		{"ErrorRecoveryLevel", "0", "0"}, {"ErrorRecoveryLevel", "2", "0"}, {"ErrorRecoveryLevel", "3", fails},
		{"IFMarker", "Yes", "No"}, {"OFMarker", "No", "No"}, {"IFMarkInt", "1~2", "Reject"}, {"OFMarkInt", "2048", "Reject"},
		{"TaskReporting", "FastAbort,RFC3720", "RFC3720"}, {"TaskReporting", "FastAbort", fails},
		{"iSCSIProtocolLevel", "1", "1"}, {"iSCSIProtocolLevel", "31", "1"}, {"iSCSIProtocolLevel", "32", fails},
		{"InitiatorAlias", "any text", ""}, {"X-org.example.key", "1", "NotUnderstood"}, {"SomethingNew", "1", "NotUnderstood"},
		{"SendTargets", "All", fails},
	} {
		q := defaultParams()
		q.maxBurst = ourMaxBurst
		answer, ok := q.negotiate(c.key, c.value)
		if !ok {
			answer = fails
		}
		if answer != c.want {
			t.Errorf("%s=%s is answered %q, want %q", c.key, c.value, answer, c.want)
		}
	}
}

func TestKeysThatDependOnOthersWaitForThem(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login(kv("FirstBurstLength", "65536", "MaxBurstLength", "8192")...)
	if got, _ := c.keys.Get("FirstBurstLength"); got != "8192" {
		t.Errorf("FirstBurstLength=%s beyond a MaxBurstLength of 8192", got)
	}
	c = b.login(kv("FirstBurstLength", "4096", "InitialR2T", "Yes", "ImmediateData", "No")...)
	if got, _ := c.keys.Get("FirstBurstLength"); got != "Irrelevant" {
		t.Errorf("FirstBurstLength=%s without unsolicited data", got)
	}
}

func TestALongLoginAnswerComesInParts(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.dial()
	keys := iscsi.Pairs(kv("InitiatorName", c.name, "TargetName", testIQN))
	for i := range 200 {
		keys.Add(fmt.Sprintf("X-%s%d", strings.Repeat("k", 50), i), "v")
	}
	text := keys.Encode()
	req := iscsi.Login{Continue: true, CSG: 1, NSG: 3, CmdSN: 1, ISID: [6]byte{0x80}}
	for ; len(text) > 8000; text = text[8000:] {
		c.send(req, text[:8000])
		c.recv()
	}
	req.Continue, req.Transit = false, true
	c.send(req, text)
	var answer []byte
	parts := 0
	for ; ; parts++ {
		p := c.recv()
		r := iscsi.ParseLoginResponse(p)
		if answer = append(answer, p.Data...); r.Status != 0 || len(p.Data) > iscsi.DefaultMRDSL || r.Continue == r.Transit {
			t.Fatalf("part %d of %d bytes: %+v", parts, len(p.Data), r)
		}
		if !r.Continue {
			break
		}
		c.send(req, nil)
	}
	out, err := iscsi.DecodePairs(answer)
	if err != nil || len(out) != 202 || parts == 0 {
		t.Fatalf("%d answers in %d parts: %v", len(out), parts+1, err)
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestALoginKeepsItsTags(t *testing.T) {
	b := newBench(t, Config{}, nil)
	for name, change := range map[string]func(*iscsi.Login){
		"task tag": func(r *iscsi.Login) { r.ITT++ }, "CID": func(r *iscsi.Login) { r.CID++ }, "TSIH": func(r *iscsi.Login) { r.TSIH = 7 },
		"stage": func(r *iscsi.Login) { r.CSG = 1 },
	} {
		c := b.dial()
		req := iscsi.Login{CSG: 0, NSG: 1}
		if rsp, _ := c.loginStep(req, kv("InitiatorName", c.name, "TargetName", testIQN, "AuthMethod", "None")); rsp.Status != 0 {
			t.Fatalf("status %04x", rsp.Status)
		}
		change(&req)
		if rsp, _ := c.loginStep(req, nil); rsp.Status != iscsi.LoginInvalidRequest {
			t.Errorf("another %s: status %04x", name, rsp.Status)
		}
		c.gone()
	}
}

// discover begins a discovery session, with CHAP when c.secret is set.
func (c *client) discover() uint16 {
	c.t.Helper()
	who := iscsi.Pairs(kv("InitiatorName", c.name, "SessionType", "Discovery"))
	if c.secret != nil {
		if status := c.chap(who); status != 0 {
			return status
		}
		who = nil
	}
	rsp, out := c.loginStep(iscsi.Login{Transit: true, CSG: 1, NSG: 3}, append(who, kv("MaxBurstLength", "512", "HeaderDigest", "None")...))
	c.keys = out
	return rsp.Status
}

// text sends keys and collects the whole answer.
func (c *client) text(keys string) string {
	c.t.Helper()
	c.itt++
	req := iscsi.Text{Final: true, ITT: c.itt, TTT: iscsi.NoTag}
	var out []byte
	data := []byte(keys)
	for {
		req.CmdSN = c.cmdSN
		c.cmdSN++
		c.send(req, data)
		p := c.recv()
		if p.Opcode() != iscsi.OpTextResponse {
			c.t.Fatalf("%v answers %q", p.Opcode(), keys)
		}
		r := iscsi.ParseTextResponse(p)
		out = append(out, p.Data...)
		if r.Final {
			return string(out)
		}
		req.TTT, data = r.TTT, nil
	}
}

func TestDiscoveryWithCredentialsOfItsOwn(t *testing.T) {
	discovery := &CHAP{User: "finder", Secret: []byte("secret of discovery")}
	b := newBench(t, Config{Discovery: func() []CHAP { return []CHAP{*discovery} }}, oneWay)
	if err := b.srv.AddTarget("iqn.2026-11.test:open", map[int]Unit{0: newMemUnit(4096)}, nil); err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]*CHAP{"none": nil, "a target's": oneWay, "wrong": {User: "finder", Secret: []byte("another secret of it")}} {
		c := b.dial()
		c.secret = secret
		if status := c.discover(); status != iscsi.LoginAuthFailure {
			t.Errorf("credentials %s: status %04x", name, status)
		}
	}
	c := b.dial()
	c.secret = discovery
	if status := c.discover(); status != 0 {
		t.Fatalf("status %04x", status)
	}
	if irrelevant, _ := c.keys.Get("MaxBurstLength"); irrelevant != "Irrelevant" {
		t.Errorf("MaxBurstLength=%s in a discovery session", irrelevant)
	}
	entry := func(iqn string) string { return "TargetName=" + iqn + "\x00TargetAddress=" + b.addr + ",1\x00" }
	for which, want := range map[string]string{"All": entry(testIQN) + entry("iqn.2026-11.test:open"), testIQN: entry(testIQN),
		"iqn.2026-11.test:none": "", "": "SendTargets=Reject\x00"} {
		if got := c.text("SendTargets=" + which + "\x00"); got != want {
			t.Errorf("SendTargets=%s: %q", which, got)
		}
	}
	normal := b.dial()
	normal.secret = discovery
	if status := normal.login(); status != iscsi.LoginAuthFailure {
		t.Errorf("a target opened by the secret of discovery: %04x", status)
	}
}

func TestTextInANormalSession(t *testing.T) {
	b := newBench(t, Config{}, nil)
	if err := b.srv.AddTarget("iqn.2026-11.test:other", map[int]Unit{0: newMemUnit(4096)}, nil); err != nil {
		t.Fatal(err)
	}
	c := b.login()
	own := "TargetName=" + testIQN + "\x00TargetAddress=" + b.addr + ",1\x00"
	for ask, want := range map[string]string{"SendTargets=": own, "SendTargets=" + testIQN: own, "SendTargets=All": "SendTargets=Reject\x00",
		"SendTargets=iqn.2026-11.test:other": "", "MaxRecvDataSegmentLength=1024": "", "MaxRecvDataSegmentLength=1": "MaxRecvDataSegmentLength=Reject\x00",
		"MaxBurstLength=1024": "MaxBurstLength=Reject\x00", "HeaderDigest=CRC32C": "HeaderDigest=Reject\x00", "X-a=b": "X-a=NotUnderstood\x00"} {
		if got := c.text(ask + "\x00"); got != want {
			t.Errorf("%s: %q", ask, got)
		}
	}
	data := c.do(iscsi.Read16CDB(0, 8), 4096)
	if data.want(t, iscsi.StatusGood); len(data.data) != 4096 {
		t.Errorf("%d bytes", len(data.data))
	}
}

func TestATextAnswerIsFinalOnlyAfterAFinalRequest(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	req := iscsi.Text{ITT: 9, TTT: iscsi.NoTag, CmdSN: c.cmdSN}
	c.send(req, []byte("X-a=1\x00"))
	r := iscsi.ParseTextResponse(c.recv())
	if r.Final || r.Continue || r.TTT == iscsi.NoTag {
		t.Fatalf("an open request is answered %+v", r)
	}
	c.cmdSN++
	req.CmdSN, req.TTT, req.Final = c.cmdSN, r.TTT, true
	c.send(req, []byte("X-b=1\x00"))
	p := c.recv()
	if r = iscsi.ParseTextResponse(p); !r.Final || r.TTT != iscsi.NoTag || string(p.Data) != "X-b=NotUnderstood\x00" {
		t.Fatalf("the last request is answered %+v %q", r, p.Data)
	}
	c.cmdSN++
	for name, bad := range map[string]iscsi.Text{"forged tag": {Final: true, ITT: 9, TTT: 12345}, "final and not": {Final: true, Continue: true, ITT: 9, TTT: iscsi.NoTag}} {
		bad.CmdSN = c.cmdSN
		c.cmdSN++
		c.send(bad, []byte("X-a=1\x00"))
		if p := c.recv(); p.Opcode() != iscsi.OpReject {
			t.Errorf("%s: %v", name, p.Opcode())
		}
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestAnIdleDiscoverySessionIsEnded(t *testing.T) {
	b := newBench(t, Config{DiscoveryTimeout: 50 * time.Millisecond}, nil)
	c := b.dial()
	if status := c.discover(); status != 0 {
		t.Fatalf("status %04x", status)
	}
	if ops := c.gone(); len(ops) != 0 {
		t.Fatalf("%v came", ops)
	}
}

func TestHeadersThatContradictThemselvesAreRejected(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	open := c.command(iscsi.Read16CDB(0, 1), 512, false)
	open.Final = false
	attr := c.command(iscsi.Read16CDB(0, 1), 512, false)
	attr.Attr = 6
	for _, cmd := range []iscsi.SCSICommand{open, attr} {
		c.send(cmd, nil)
		p := c.recv()
		if p.Opcode() != iscsi.OpReject || iscsi.ParseReject(p).Reason != iscsi.RejectInvalidPDUField || len(p.Data) != iscsi.BHSLen {
			t.Fatalf("%v with %d bytes", p.Opcode(), len(p.Data))
		}
	}
	for i, ahs := range [][]byte{{0, 0, 1, 0}, {0, 200, 1, 0, 0, 0, 0, 0}} {
		var p iscsi.PDU
		c.command(iscsi.Read16CDB(0, 1), 512, false).Put(&p)
		p.AHS = ahs
		if err := c.w.Write(&p); err != nil {
			t.Fatal(err)
		}
		if err := c.w.Flush(); err != nil {
			t.Fatal(err)
		}
		if p := c.recv(); p.Opcode() != iscsi.OpReject {
			t.Fatalf("additional header %d: %v", i, p.Opcode())
		}
	}
	c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestNothingFollowsALogout(t *testing.T) {
	b := newBench(t, Config{}, nil)
	c := b.login()
	b.unit.hold()
	c.send(c.command(iscsi.Read16CDB(0, 1), 512, false), nil)
	<-b.unit.arrived
	out := iscsi.Logout{Immediate: true, Reason: iscsi.LogoutCloseSession, ITT: 77, CmdSN: c.cmdSN}
	c.send(out, nil)
	c.send(out, nil)
	ended := make(chan []iscsi.Opcode)
	go func() { ended <- c.gone() }()
	if ops := <-ended; !bytes.Equal(opcodes(ops), []byte{byte(iscsi.OpReject)}) {
		t.Fatalf("after two logouts: %v", ops)
	}
}

func opcodes(ops []iscsi.Opcode) []byte {
	var out []byte
	for _, o := range ops {
		out = append(out, byte(o))
	}
	return out
}

func TestTaskManagementThatWaitsIsBounded(t *testing.T) {
	b := newBench(t, Config{QueueDepth: 4}, nil)
	c := b.login()
	b.unit.hold()
	c.send(c.command(iscsi.Read16CDB(0, 1), 512, false), nil)
	<-b.unit.arrived
	for range 4 {
		c.tmf(iscsi.LogicalUnitReset, 0)
	}
	for range 100 {
		c.tmf(iscsi.LogicalUnitReset, 0)
		if p := c.recv(); p.Opcode() != iscsi.OpReject || iscsi.ParseReject(p).Reason != iscsi.RejectImmediate {
			t.Fatalf("%v", p.Opcode())
		}
	}
	b.unit.release()
	for range 4 {
		if p := c.recv(); p.Opcode() != iscsi.OpTaskMgmtRsp {
			t.Fatalf("%v", p.Opcode())
		}
	}
}

func TestClearTaskSetIsToldToTheOthers(t *testing.T) {
	b := newBench(t, Config{}, nil)
	one, two := b.login(), b.dial()
	two.isid = 1
	if s := two.login(); s != 0 {
		t.Fatalf("status %04x", s)
	}
	cmd := one.command(iscsi.Write16CDB(0, 8, false), 4096, true)
	one.send(cmd, nil)
	one.recv()
	two.wantTMF(two.tmf(iscsi.ClearTaskSet, 0), iscsi.TMComplete)
	two.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
	one.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseUnitAttention, iscsi.ASCCommandsCleared)
	one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}
