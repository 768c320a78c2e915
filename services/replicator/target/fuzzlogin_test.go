package target

import (
	"io"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// FuzzNegotiate holds every answer of the negotiation to the ranges of RFC 7143 section 13, whatever is offered.
func FuzzNegotiate(f *testing.F) {
	for _, key := range []string{"HeaderDigest", "DataDigest", "MaxConnections", "InitialR2T", "ImmediateData", "MaxRecvDataSegmentLength",
		"MaxBurstLength", "FirstBurstLength", "DefaultTime2Wait", "DefaultTime2Retain", "MaxOutstandingR2T", "DataPDUInOrder",
		"ErrorRecoveryLevel", "IFMarker", "OFMarkInt", "TaskReporting", "iSCSIProtocolLevel", "InitiatorAlias", "X-key"} {
		for _, value := range []string{"Yes", "No", "0", "1", "65536", "0xffffff", "None,CRC32C", "RFC3720", ""} {
			f.Add(key, value, "FirstBurstLength", value, false)
		}
	}
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string, discovery bool) {
		q := defaultParams()
		q.discovery = discovery
		for _, p := range inOrder(iscsi.Pairs{{Key: key1, Value: value1}, {Key: key2, Value: value2}}) {
			answer, ok := q.negotiate(p.Key, p.Value)
			if n, err := strconv.Atoi(answer); ok && err == nil && (n < 0 || n > iscsi.MaxDataLen) {
				t.Errorf("%s=%s is answered %s", p.Key, p.Value, answer)
			}
			if plain := []string{"Yes", "No", "Reject", "Irrelevant", "NotUnderstood", "None", "CRC32C", "RFC3720", ""}; !slices.Contains(plain, answer) {
				if _, err := strconv.ParseUint(answer, 10, 24); ok && err != nil {
					t.Errorf("%s=%s is answered %q", p.Key, p.Value, answer)
				}
			}
			q.inText(p.Key, p.Value)
		}
		if q.maxBurst < 512 || q.maxBurst > ourMaxBurst || q.firstBurst < 512 || q.firstBurst > ourFirstBurst || q.maxR2T < 1 || q.maxR2T > ourMaxR2T ||
			q.maxSend < 512 || q.maxSend > maxTransfer {
			t.Errorf("%s=%s, %s=%s: agreed on %+v", key1, value1, key2, value2, q)
		}
	})
}

// FuzzLogin sends three login requests of any flags and text: each is answered within what the initiator takes, or the
// connection ends, and a guarded target is entered by nobody.
func FuzzLogin(f *testing.F) {
	open := string(iscsi.Pairs(kv("InitiatorName", "i", "TargetName", testIQN)).Encode())
	guarded := string(iscsi.Pairs(kv("InitiatorName", "i", "TargetName", testIQN+"2", "AuthMethod", "CHAP")).Encode())
	f.Add(byte(0x87), open, byte(0x87), "", byte(0x87), "")
	f.Add(byte(0x00), guarded, byte(0x00), "CHAP_A=5\x00", byte(0x81), "CHAP_N=vm1\x00CHAP_R=0x00\x00CHAP_I=1\x00CHAP_C=0x01\x00")
	f.Add(byte(0x81), guarded, byte(0x87), "", byte(0x00), "CHAP_R=0x01\x00CHAP_N=vm1\x00")
	f.Add(byte(0x44), open[:10], byte(0x44), open[10:], byte(0x87), "HeaderDigest=CRC32C\x00")
	f.Add(byte(0x83), "InitiatorName=i\x00SessionType=Discovery\x00AuthMethod=None\x00", byte(0x87), "SendTargets=All\x00", byte(0), "=")
	f.Fuzz(func(t *testing.T, flags1 byte, text1 string, flags2 byte, text2 string, flags3 byte, text3 string) {
		s := New(Config{})
		for iqn, auth := range map[string]*CHAP{testIQN: nil, testIQN + "2": mutual} {
			if err := s.AddTarget(iqn, map[int]Unit{0: newMemUnit(4096)}, auth); err != nil {
				t.Fatal(err)
			}
		}
		ours, theirs := net.Pipe()
		_ = ours.SetDeadline(time.Now().Add(5 * time.Second))
		c := newConn(s, theirs)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.serve()
			_, _ = io.Copy(io.Discard, theirs)
		}()
		r, w := iscsi.NewReader(ours, nil, iscsi.DefaultMRDSL), iscsi.NewWriter(ours)
		for i, text := range []string{text1, text2, text3} {
			if !fuzzLoginStep(t, r, w, []byte{flags1, flags2, flags3}[i], text) {
				break
			}
		}
		for _, ss := range s.Sessions() {
			if ss.Target != testIQN {
				t.Errorf("%+v was let in", ss)
			}
		}
		_ = ours.Close()
		<-ended
		if n := len(s.Sessions()); n != 0 || s.limits.connectionsOrSessions() != 0 {
			t.Errorf("%d sessions stay", n)
		}
	})
}

// fuzzLoginStep reports whether the login goes on.
func fuzzLoginStep(t *testing.T, r *iscsi.Reader, w *iscsi.Writer, flags byte, text string) bool {
	var p iscsi.PDU
	iscsi.Login{ISID: [6]byte{0x80}, CmdSN: 1}.Put(&p)
	p.BHS[1] = flags
	p.Data = []byte(text[:min(len(text), iscsi.DefaultMRDSL)])
	if w.Write(&p) != nil || w.Flush() != nil {
		return false
	}
	if err := r.Next(&p); err != nil {
		return false
	}
	rsp := iscsi.ParseLoginResponse(&p)
	if p.Opcode() != iscsi.OpLoginResponse || rsp.Transit && rsp.Continue || rsp.Status != 0 && rsp.Transit {
		t.Fatalf("%v answers: %+v", p.Opcode(), rsp)
	}
	return rsp.Status == 0 && !(rsp.Transit && rsp.NSG == iscsi.StageFullFeature)
}

func (l *limits) connectionsOrSessions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, p := range l.peers {
		n += p.connections + p.sessions
	}
	return n
}
