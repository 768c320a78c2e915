package iscsi

import "fmt"

// Status is a SCSI status (SAM-5 section 5.3.1).
type Status byte

// SCSI statuses.
const (
	StatusGood                Status = 0x00
	StatusCheckCondition      Status = 0x02
	StatusConditionMet        Status = 0x04
	StatusBusy                Status = 0x08
	StatusReservationConflict Status = 0x18
	StatusTaskSetFull         Status = 0x28
	StatusTaskAborted         Status = 0x40
)

// SCSI operation codes (SPC-4, SBC-4).
const (
	TestUnitReady        = 0x00
	RequestSense         = 0x03
	FormatUnit           = 0x04
	Read6                = 0x08
	Write6               = 0x0a
	Inquiry              = 0x12
	ModeSelect6          = 0x15
	Reserve6             = 0x16
	Release6             = 0x17
	ModeSense6           = 0x1a
	StartStopUnit        = 0x1b
	PreventAllow         = 0x1e
	ReadCapacity10       = 0x25
	Read10               = 0x28
	Write10              = 0x2a
	WriteVerify10        = 0x2e
	Verify10             = 0x2f
	Prefetch10           = 0x34
	SyncCache10          = 0x35
	ReadDefectData10     = 0x37
	WriteSame10          = 0x41
	Unmap                = 0x42
	Sanitize             = 0x48
	ModeSelect10         = 0x55
	ModeSense10          = 0x5a
	PersistentReserveIn  = 0x5e
	PersistentReserveOut = 0x5f
	ExtendedCopy         = 0x83
	ReceiveCopyResults   = 0x84
	Read16               = 0x88
	CompareAndWrite      = 0x89
	Write16              = 0x8a
	OrWrite              = 0x8b
	WriteVerify16        = 0x8e
	Verify16             = 0x8f
	Prefetch16           = 0x90
	SyncCache16          = 0x91
	WriteSame16          = 0x93
	WriteAtomic16        = 0x9c
	ServiceActionIn16    = 0x9e
	ReportLUNs           = 0xa0
	MaintenanceIn        = 0xa3
	Read12               = 0xa8
	Write12              = 0xaa
	WriteVerify12        = 0xae
	Verify12             = 0xaf
	ReadDefectData12     = 0xb7

	// Service actions.
	ReadCapacity16SA = 0x10 // of ServiceActionIn16
	GetLBAStatusSA   = 0x12 // of ServiceActionIn16
	ReportOpcodesSA  = 0x0c // of MaintenanceIn
	ReportTMFsSA     = 0x0d // of MaintenanceIn
)

// Sense keys (SPC-4 section 4.5.6).
const (
	SenseNone           byte = 0x0
	SenseRecovered      byte = 0x1
	SenseNotReady       byte = 0x2
	SenseMediumError    byte = 0x3
	SenseHardwareError  byte = 0x4
	SenseIllegalRequest byte = 0x5
	SenseUnitAttention  byte = 0x6
	SenseDataProtect    byte = 0x7
	SenseCopyAborted    byte = 0xa
	SenseAborted        byte = 0xb
	SenseMiscompare     byte = 0xe
)

// Additional sense codes, ASC in the high byte and ASCQ in the low one.
const (
	ASCNone                     uint16 = 0x0000
	ASCNotReadyStart            uint16 = 0x0402 // an initializing command (START STOP UNIT) is required
	ASCNotReadyManual           uint16 = 0x0403
	ASCSanitizeInProgress       uint16 = 0x041b
	ASCOperationInProgress      uint16 = 0x0016
	ASCUnreachableCSCD          uint16 = 0x0804
	ASCWriteError               uint16 = 0x0c00
	ASCCSCDNotReachable         uint16 = 0x0d02
	ASCReadError                uint16 = 0x1100
	ASCParameterListLength      uint16 = 0x1a00
	ASCMiscompare               uint16 = 0x1d00
	ASCInvalidOpcode            uint16 = 0x2000
	ASCLBAOutOfRange            uint16 = 0x2100
	ASCInvalidFieldInCDB        uint16 = 0x2400
	ASCLUNotSupported           uint16 = 0x2500
	ASCInvalidFieldInParams     uint16 = 0x2600
	ASCInvalidRelease           uint16 = 0x2604
	ASCTooManyCSCDs             uint16 = 0x2606
	ASCUnsupportedCSCD          uint16 = 0x2607
	ASCTooManySegments          uint16 = 0x2608
	ASCUnsupportedSegment       uint16 = 0x2609
	ASCInlineDataLength         uint16 = 0x260b
	ASCWriteProtected           uint16 = 0x2700
	ASCSpaceAllocFailed         uint16 = 0x2707
	ASCMediumChanged            uint16 = 0x2800 // not ready to ready, the medium may be another
	ASCPowerOn                  uint16 = 0x2900
	ASCBusReset                 uint16 = 0x2902
	ASCDeviceReset              uint16 = 0x2903
	ASCNexusLoss                uint16 = 0x2907
	ASCModeParamsChanged        uint16 = 0x2a01
	ASCReservationsPreempted    uint16 = 0x2a03
	ASCReservationsReleased     uint16 = 0x2a04
	ASCRegistrationsPreempted   uint16 = 0x2a05
	ASCCapacityChanged          uint16 = 0x2a09
	ASCCommandsCleared          uint16 = 0x2f00 // by another initiator
	ASCSanitizeFailed           uint16 = 0x3103
	ASCSavingNotSupported       uint16 = 0x3900
	ASCMediumNotPresent         uint16 = 0x3a00
	ASCMediumAbsentTrayClosed   uint16 = 0x3a01
	ASCMediumAbsentTrayOpen     uint16 = 0x3a02
	ASCInternalFailure          uint16 = 0x4400
	ASCProtocolCRC              uint16 = 0x4705 // protocol service CRC error
	ASCMediumRemovalPrevented   uint16 = 0x5302
	ASCInsufficientRegistration uint16 = 0x5504
)

// Sense is what a CHECK CONDITION says. Info is the INFORMATION field when HasInfo (the offset of a miscompare).
type Sense struct {
	Key     byte
	ASC     uint16
	Info    uint32
	HasInfo bool
	// FieldPointer names the byte of the CDB (InCDB) or of the parameter list that was refused, when HasField.
	FieldPointer uint16
	InCDB        bool
	HasField     bool
	// Progress is how far what is going on is, of 65,536, when HasProgress; only with SenseNotReady and SenseNone.
	Progress    uint16
	HasProgress bool
}

// SenseLen is the length of fixed format sense data.
const SenseLen = 18

// Fixed is the fixed format of s (SPC-4 section 4.5.3).
func (s Sense) Fixed() [SenseLen]byte {
	b := [SenseLen]byte{0: 0x70, 2: s.Key, 7: SenseLen - 8, 12: byte(s.ASC >> 8), 13: byte(s.ASC)}
	if s.HasInfo {
		b[0] |= 0x80
		b[3], b[4], b[5], b[6] = byte(s.Info>>24), byte(s.Info>>16), byte(s.Info>>8), byte(s.Info)
	}
	if s.HasField {
		b[15] = 0x80 | flag(s.InCDB, 0x40)
		b[16], b[17] = byte(s.FieldPointer>>8), byte(s.FieldPointer)
	}
	if s.HasProgress {
		b[15], b[16], b[17] = 0x80, byte(s.Progress>>8), byte(s.Progress)
	}
	return b
}

// Error makes a Sense an error for an initiator.
func (s Sense) Error() string {
	return fmt.Sprintf("check condition: sense key 0x%x, asc/ascq 0x%02x/0x%02x", s.Key, s.ASC>>8, s.ASC&0xff)
}

// ParseSense reads fixed (0x70, 0x71) or descriptor (0x72, 0x73) format sense data.
func ParseSense(b []byte) (Sense, error) {
	if len(b) < 4 {
		return Sense{}, fmt.Errorf("sense data of %d bytes: %w", len(b), ErrMalformed)
	}
	switch b[0] & 0x7f {
	case 0x72, 0x73:
		return Sense{Key: b[1] & 0xf, ASC: uint16(b[2])<<8 | uint16(b[3])}, nil
	case 0x70, 0x71:
		if len(b) < 14 {
			return Sense{}, fmt.Errorf("fixed sense data of %d bytes: %w", len(b), ErrMalformed)
		}
		s := Sense{Key: b[2] & 0xf, ASC: uint16(b[12])<<8 | uint16(b[13]), HasInfo: b[0]&0x80 != 0}
		if s.HasInfo {
			s.Info = uint32(b[3])<<24 | uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6])
		}
		switch specific := len(b) >= SenseLen && b[15]&0x80 != 0; {
		case specific && (s.Key == SenseNotReady || s.Key == SenseNone):
			s.HasProgress, s.Progress = true, uint16(b[16])<<8|uint16(b[17])
		case specific:
			s.HasField, s.InCDB, s.FieldPointer = true, b[15]&0x40 != 0, uint16(b[16])<<8|uint16(b[17])
		}
		return s, nil
	}
	return Sense{}, fmt.Errorf("sense response code 0x%02x: %w", b[0], ErrMalformed)
}

// ResponseSense is the sense in the data segment of a SCSI response: a two-byte length, then the sense (section 11.4.7).
func ResponseSense(data []byte) (Sense, error) {
	if len(data) < 2 {
		return Sense{}, fmt.Errorf("response without sense: %w", ErrMalformed)
	}
	n := int(data[0])<<8 | int(data[1])
	if n > len(data)-2 {
		return Sense{}, fmt.Errorf("sense length %d of %d: %w", n, len(data)-2, ErrMalformed)
	}
	return ParseSense(data[2 : 2+n])
}

// AppendSense appends the data segment of a SCSI response that carries s.
func AppendSense(dst []byte, s Sense) []byte {
	f := s.Fixed()
	return append(append(dst, 0, SenseLen), f[:]...)
}
