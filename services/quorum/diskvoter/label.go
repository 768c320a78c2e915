package diskvoter

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// labelled is what a voting disk says of itself.
type labelled struct {
	slots uint32
	id    [16]byte
}

const labelBytes = 32

func (l labelled) encode(block int) []byte {
	out := make([]byte, block)
	copy(out, labelMagic[:])
	binary.LittleEndian.PutUint32(out[12:], l.slots)
	copy(out[16:], l.id[:])
	binary.LittleEndian.PutUint32(out[8:], crc32.Checksum(out[12:labelBytes], castagnoli))
	return out
}

func decodeLabel(b []byte) (labelled, error) {
	l := labelled{slots: binary.LittleEndian.Uint32(b[12:]), id: [16]byte(b[16:])}
	if binary.LittleEndian.Uint32(b[8:]) != crc32.Checksum(b[12:labelBytes], castagnoli) || l.slots < probes || l.slots > maxSlots {
		return l, fmt.Errorf("its label: %w", ErrCorrupt)
	}
	return l, nil
}

// label reads a voting disk's label, and makes an empty LUN one. What is neither is refused.
func label(ctx context.Context, u *unit) (labelled, error) {
	if u.BlockSize() != 512 && u.BlockSize() != slotBytes {
		return labelled{}, fmt.Errorf("its blocks have %d bytes: want 512 or %d: %w", u.BlockSize(), slotBytes, domain.ErrInvalid)
	}
	if u.Capacity() < minBytes {
		return labelled{}, fmt.Errorf("it has %d bytes: make it %d at least: %w", u.Capacity(), minBytes, domain.ErrInvalid)
	}
	l, found, err := readLabel(ctx, u)
	if found || err != nil {
		return l, err
	}
	l.slots = uint32(min(maxSlots, (u.Capacity()-slotsAt)/slotBytes))
	all := make([]byte, min(u.Capacity(), max(emptyBytes, slotsAt+int64(l.slots)*slotBytes)))
	if err := u.Read(ctx, all, 0); err != nil {
		return l, err
	}
	why := ErrForeign
	if empty(all) {
		_, _ = rand.Read(l.id[:]) // never fails
		if why = u.swap(ctx, labelAt, make([]byte, u.BlockSize()), l.encode(u.BlockSize())); !errors.Is(why, initiator.ErrMiscompare) {
			return l, why
		}
	}
	// Another site may have made it one meanwhile.
	if l, found, err = readLabel(ctx, u); err == nil && !found {
		err = fmt.Errorf("%w: give votes an empty LUN of their own", why)
	}
	return l, err
}

// readLabel reads the label; found is false where there is none.
func readLabel(ctx context.Context, u *unit) (l labelled, found bool, err error) {
	head := make([]byte, u.BlockSize())
	if err := u.Read(ctx, head, labelAt); err != nil || [8]byte(head) != labelMagic {
		return l, false, err
	}
	if l, err = decodeLabel(head); err == nil && slotsAt+int64(l.slots)*slotBytes > u.Capacity() {
		err = fmt.Errorf("it has %d bytes, fewer than when it was first used: %w", u.Capacity(), domain.ErrInvalid)
	}
	return l, true, err
}

// same keeps the identity of the first LUN that was seen, and refuses any other.
func (d *Disk) same(l labelled) error {
	id := hex.EncodeToString(l.id[:])
	kept, err := os.ReadFile(d.pin)
	switch {
	case err == nil && strings.TrimSpace(string(kept)) == id:
		return nil
	case err == nil:
		return fmt.Errorf("%w: it is %s, this site's votes are on %s: two disks under one name would be two votes. To change the voting disk, give it weight 0 at every site, "+
			"change quorum.disk at every site and remove %s there, then give it its weight again", ErrOther, id, strings.TrimSpace(string(kept)), d.pin)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read which voting disk it is: %w", err)
	}
	if err := durable.WriteFile(d.pin, []byte(id+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep which voting disk it is: %w", err)
	}
	return nil
}
