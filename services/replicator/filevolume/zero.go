package filevolume

import "bytes"

const (
	zeroBlock = 4096
	// punchFrom is the least range that is worth a hole where there is data already: below it a hole costs more than the
	// write, and breaks the file into pieces.
	punchFrom = 64 << 10
)

var zeroes [zeroBlock]byte

// write stores data. Whole blocks of zeroes take no space where there is none taken, and give it back from punchFrom on.
func (v *Volume) write(data []byte, off int64) error {
	if v.settings.DetectZeroes && off%zeroBlock == 0 && len(data)%zeroBlock == 0 && allZero(data) {
		n := int64(len(data))
		mapped, length, err := v.store.Extent(off)
		if err == nil && !mapped && length >= n {
			return nil
		}
		if n >= punchFrom {
			return v.store.Unmap(off, n)
		}
	}
	_, err := v.store.WriteAt(data, off)
	return err
}

// allZero is quick on data that is not: its first byte mostly tells.
func allZero(data []byte) bool {
	for ; len(data) >= zeroBlock; data = data[zeroBlock:] {
		if data[0] != 0 || !bytes.Equal(data[:zeroBlock], zeroes[:]) {
			return false
		}
	}
	return true
}
