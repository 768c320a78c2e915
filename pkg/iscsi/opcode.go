package iscsi

import "fmt"

// Opcode is the low six bits of a PDU's first byte (RFC 7143 section 11.2.1.2).
type Opcode byte

// Opcodes an initiator sends.
const (
	OpNopOut       Opcode = 0x00
	OpSCSICommand  Opcode = 0x01
	OpTaskMgmt     Opcode = 0x02
	OpLoginRequest Opcode = 0x03
	OpTextRequest  Opcode = 0x04
	OpDataOut      Opcode = 0x05
	OpLogout       Opcode = 0x06
	OpSNACK        Opcode = 0x10
)

// Opcodes a target sends.
const (
	OpNopIn          Opcode = 0x20
	OpSCSIResponse   Opcode = 0x21
	OpTaskMgmtRsp    Opcode = 0x22
	OpLoginResponse  Opcode = 0x23
	OpTextResponse   Opcode = 0x24
	OpDataIn         Opcode = 0x25
	OpLogoutResponse Opcode = 0x26
	OpR2T            Opcode = 0x31
	OpAsync          Opcode = 0x32
	OpReject         Opcode = 0x3f
)

var opcodeNames = map[Opcode]string{
	OpNopOut: "NOP-Out", OpSCSICommand: "SCSI-Command", OpTaskMgmt: "Task-Management", OpLoginRequest: "Login",
	OpTextRequest: "Text", OpDataOut: "Data-Out", OpLogout: "Logout", OpSNACK: "SNACK",
	OpNopIn: "NOP-In", OpSCSIResponse: "SCSI-Response", OpTaskMgmtRsp: "Task-Management-Response",
	OpLoginResponse: "Login-Response", OpTextResponse: "Text-Response", OpDataIn: "Data-In",
	OpLogoutResponse: "Logout-Response", OpR2T: "R2T", OpAsync: "Async", OpReject: "Reject",
}

func (o Opcode) String() string {
	if n, ok := opcodeNames[o]; ok {
		return n
	}
	return fmt.Sprintf("opcode 0x%02x", byte(o))
}

// NoTag is the reserved initiator or target transfer tag.
const NoTag uint32 = 0xffffffff

// Header sizes and the largest lengths the format itself can carry.
const (
	BHSLen       = 48
	MaxAHSLen    = 255 * 4
	MaxDataLen   = 1<<24 - 1
	digestLen    = 4
	DefaultMRDSL = 8192 // MaxRecvDataSegmentLength before anything is negotiated
)

// TaskMgmtFunction is the function of a task management request (section 11.5.1).
type TaskMgmtFunction byte

// Task management functions.
const (
	AbortTask        TaskMgmtFunction = 1
	AbortTaskSet     TaskMgmtFunction = 2
	ClearACA         TaskMgmtFunction = 3
	ClearTaskSet     TaskMgmtFunction = 4
	LogicalUnitReset TaskMgmtFunction = 5
	TargetWarmReset  TaskMgmtFunction = 6
	TargetColdReset  TaskMgmtFunction = 7
	TaskReassign     TaskMgmtFunction = 8
)

// Task management responses (section 11.6.1).
const (
	TMComplete         byte = 0
	TMNoTask           byte = 1
	TMNoLUN            byte = 2
	TMTaskAllegiant    byte = 3
	TMNoReassign       byte = 4
	TMNotSupported     byte = 5
	TMNotAuthorized    byte = 6
	TMFunctionRejected byte = 255
)

// Reject reasons (section 11.17.1).
const (
	RejectDataDigest      byte = 0x02
	RejectSNACK           byte = 0x03
	RejectProtocolError   byte = 0x04
	RejectNotSupported    byte = 0x05
	RejectImmediate       byte = 0x06
	RejectTaskInProgress  byte = 0x07
	RejectInvalidDataACK  byte = 0x08
	RejectInvalidPDUField byte = 0x09
	RejectLongOperation   byte = 0x0a
	RejectNegotiation     byte = 0x0b
	RejectWaitLogout      byte = 0x0c
)

// Login status, class in the high byte and detail in the low one (section 11.13.5).
const (
	LoginSuccess            uint16 = 0x0000
	LoginTargetMovedTemp    uint16 = 0x0101
	LoginTargetMovedPerm    uint16 = 0x0102
	LoginInitiatorError     uint16 = 0x0200
	LoginAuthFailure        uint16 = 0x0201
	LoginNotAuthorized      uint16 = 0x0202
	LoginTargetNotFound     uint16 = 0x0203
	LoginTargetRemoved      uint16 = 0x0204
	LoginUnsupportedVersion uint16 = 0x0205
	LoginTooManyConnections uint16 = 0x0206
	LoginMissingParameter   uint16 = 0x0207
	LoginCannotInclude      uint16 = 0x0208
	LoginSessionType        uint16 = 0x0209
	LoginNoSession          uint16 = 0x020a
	LoginInvalidRequest     uint16 = 0x020b
	LoginTargetError        uint16 = 0x0300
	LoginServiceUnavailable uint16 = 0x0301
	LoginOutOfResources     uint16 = 0x0302
)

// Login stages (section 11.12.3).
const (
	StageSecurity    byte = 0
	StageOperational byte = 1
	StageFullFeature byte = 3
)

// Logout reasons and responses (sections 11.14.1 and 11.15.1).
const (
	LogoutCloseSession    byte = 0
	LogoutCloseConnection byte = 1
	LogoutRecovery        byte = 2

	LogoutOK            byte = 0
	LogoutNoCID         byte = 1
	LogoutNoRecovery    byte = 2
	LogoutCleanupFailed byte = 3
)

// Async events (section 11.9.1).
const (
	AsyncSCSI             byte = 0
	AsyncRequestLogout    byte = 1
	AsyncDropConnection   byte = 2
	AsyncDropAll          byte = 3
	AsyncRequestNegotiate byte = 4
)

// Task attributes of a SCSI command (section 11.3.1).
const (
	AttrUntagged    byte = 0
	AttrSimple      byte = 1
	AttrOrdered     byte = 2
	AttrHeadOfQueue byte = 3
	AttrACA         byte = 4
)
