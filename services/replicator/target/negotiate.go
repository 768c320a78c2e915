package target

import (
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// params are the operational parameters of a session (RFC 7143 section 13).
type params struct {
	headerDigest, dataDigest  bool
	initialR2T, immediateData bool
	maxSend                   int // the initiator's MaxRecvDataSegmentLength
	maxBurst, firstBurst      int
	maxR2T                    int
	cid                       uint16
	discovery                 bool // no command and no data will follow
}

func defaultParams() params {
	return params{initialR2T: true, immediateData: true, maxSend: iscsi.DefaultMRDSL, maxBurst: 256 << 10, firstBurst: 64 << 10, maxR2T: 1}
}

// What the target would like at most.
const (
	ourMaxBurst   = 1 << 20
	ourFirstBurst = 256 << 10
	ourMaxR2T     = 8
)

// ofCommands are the keys about commands and their data. A discovery session has neither, so they are irrelevant there
// (RFC 7143 section 13, each key's own paragraph).
var ofCommands = []string{"MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T",
	"DataPDUInOrder", "DataSequenceInOrder", "TaskReporting", "iSCSIProtocolLevel"}

// negotiate answers one operational key of a login; ok is false when the value breaks the rules. answer "" means no answer
// is due. MaxBurstLength must be negotiated before FirstBurstLength of the same request, see inOrder.
func (q *params) negotiate(key, value string) (answer string, ok bool) {
	if q.discovery && slices.Contains(ofCommands, key) {
		return "Irrelevant", true
	}
	switch key {
	case "HeaderDigest":
		return digest(value, &q.headerDigest)
	case "DataDigest":
		return digest(value, &q.dataDigest)
	case "InitialR2T":
		return boolean(value, func(v bool) bool { return v }, &q.initialR2T) // OR with our No
	case "ImmediateData":
		return boolean(value, func(v bool) bool { return v }, &q.immediateData) // AND with our Yes
	case "DataPDUInOrder", "DataSequenceInOrder":
		return boolean(value, func(bool) bool { return true }, new(bool)) // OR with our Yes
	case "IFMarker", "OFMarker":
		return boolean(value, func(bool) bool { return false }, new(bool))
	case "MaxRecvDataSegmentLength":
		n, good := number(value, 512, iscsi.MaxDataLen)
		if good {
			q.maxSend = min(n, maxTransfer)
		}
		return "", good
	case "MaxBurstLength":
		return smallest(value, 512, iscsi.MaxDataLen, ourMaxBurst, &q.maxBurst)
	case "FirstBurstLength":
		if q.initialR2T && !q.immediateData {
			return "Irrelevant", true
		}
		// It must not exceed MaxBurstLength, whatever the initiator offers (section 13.14).
		return smallest(value, 512, iscsi.MaxDataLen, min(ourFirstBurst, q.maxBurst), &q.firstBurst)
	case "MaxOutstandingR2T":
		return smallest(value, 1, 65535, ourMaxR2T, &q.maxR2T)
	case "MaxConnections":
		return smallest(value, 1, 65535, 1, new(int))
	case "ErrorRecoveryLevel":
		return smallest(value, 0, 2, 0, new(int))
	case "DefaultTime2Retain":
		return smallest(value, 0, 3600, 0, new(int))
	case "DefaultTime2Wait":
		n, good := number(value, 0, 3600)
		return strconv.Itoa(max(n, 2)), good
	case "iSCSIProtocolLevel":
		return smallest(value, 0, 31, 1, new(int))
	case "TaskReporting":
		return pick(value, "RFC3720")
	case "IFMarkInt", "OFMarkInt":
		return "Reject", true // obsolete, and refused without an end to the login (section 13.25)
	case "SendTargets":
		return "Reject", false // of the full feature phase only
	case "InitiatorAlias", "InitiatorName", "TargetName", "SessionType", "TargetAlias", "TargetAddress", "TargetPortalGroupTag":
		return "", true
	}
	return "NotUnderstood", true
}

// inOrder is a request's pairs with those last that depend on others: FirstBurstLength is bounded by MaxBurstLength and
// irrelevant without unsolicited data.
func inOrder(in iscsi.Pairs) iscsi.Pairs {
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b iscsi.Pair) int { return dependence(a.Key) - dependence(b.Key) })
	return out
}

func dependence(key string) int {
	if key == "FirstBurstLength" {
		return 1
	}
	return 0
}

// inText answers one key of a text request in the full feature phase, in which little may change (section 13, "Use").
func (q *params) inText(key, value string) string {
	if key == "MaxRecvDataSegmentLength" || key == "InitiatorAlias" {
		if answer, ok := q.negotiate(key, value); !ok {
			return "Reject"
		} else {
			return answer
		}
	}
	if answer, _ := new(params).negotiate(key, value); answer == "NotUnderstood" {
		return answer
	}
	return "Reject" // known, and of the login only
}

func digest(value string, on *bool) (string, bool) {
	for v := range strings.SplitSeq(value, ",") {
		if v == "CRC32C" || v == "None" {
			*on = v == "CRC32C"
			return v, true
		}
	}
	return "Reject", false
}

func pick(value, want string) (string, bool) {
	for v := range strings.SplitSeq(value, ",") {
		if v == want {
			return v, true
		}
	}
	return "Reject", false
}

func boolean(value string, f func(bool) bool, out *bool) (string, bool) {
	if value != "Yes" && value != "No" {
		return "Reject", false
	}
	*out = f(value == "Yes")
	if *out {
		return "Yes", true
	}
	return "No", true
}

func smallest(value string, low, high, ours int, out *int) (string, bool) {
	n, ok := number(value, low, high)
	if !ok {
		return "Reject", false
	}
	*out = min(n, ours)
	return strconv.Itoa(*out), true
}

func number(value string, low, high int) (int, bool) {
	base := 10
	if strings.HasPrefix(value, "0x") || strings.HasPrefix(value, "0X") {
		value, base = value[2:], 16
	}
	n, err := strconv.ParseUint(value, base, 32)
	return int(n), err == nil && int(n) >= low && int(n) <= high
}

// answerRoom is how much text one answer carries: what the initiator takes in a PDU, until it says otherwise 8192 bytes.
func (q *params) answerRoom() int { return min(q.maxSend, iscsi.DefaultMRDSL) }
