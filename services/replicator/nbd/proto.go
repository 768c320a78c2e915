package nbd

// The protocol's numbers (github.com/NetworkBlockDevice/nbd, doc/proto.md). All integers are big-endian.
const (
	magicServer     = 0x4e42444d41474943 // NBDMAGIC
	magicOption     = 0x49484156454f5054 // IHAVEOPT
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	requestLen    = 28
	simpleLen     = 16
	chunkLen      = 20 // the header of a structured reply
	exportZeroes  = 124
	maxName       = 4096
	maxOption     = 64 << 10
	maxSkip       = 1 << 20 // of an option that is too long
	maxPayload    = 32 << 20
	preferredSize = 4096
)

// Handshake flags of the server and of the client: the same two bits.
const (
	hsFixedNewstyle = 1 << 0
	hsNoZeroes      = 1 << 1
)

// Options.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Replies to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErrUnsup    = 1<<31 + 1
	repErrPolicy   = 1<<31 + 2
	repErrInvalid  = 1<<31 + 3
	repErrTLSReqd  = 1<<31 + 5
	repErrUnknown  = 1<<31 + 6
	repErrTooBig   = 1<<31 + 9
)

// What NBD_OPT_INFO and NBD_OPT_GO can tell.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Transmission flags.
const (
	txHasFlags        = 1 << 0
	txReadOnly        = 1 << 1
	txSendFlush       = 1 << 2
	txSendFUA         = 1 << 3
	txSendTrim        = 1 << 5
	txSendWriteZeroes = 1 << 6
	txSendDF          = 1 << 7
	txCanMultiConn    = 1 << 8
	txSendCache       = 1 << 10
	txSendFastZero    = 1 << 11
)

// Requests.
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// Flags of requests.
const (
	flagFUA      = 1 << 0
	flagNoHole   = 1 << 1
	flagDF       = 1 << 2
	flagReqOne   = 1 << 3
	flagFastZero = 1 << 4
)

// Structured replies.
const (
	chunkDone        = 1 // a flag
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

// The metadata context base:allocation: its name, its number in our replies, and its states.
const (
	contextAllocation   = "base:allocation"
	contextAllocationID = 1
	stateHole           = 1 << 0
	stateZero           = 1 << 1
)

// errno is an error as the protocol numbers it.
type errno uint32

const (
	errPerm   errno = 1
	errIO     errno = 5
	errInval  errno = 22
	errNoSpc  errno = 28
	errNotSup errno = 95
)
