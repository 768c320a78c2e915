package filevolume

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// OnResize sets what is called after Info tells a new size, nil nothing; the target tells its initiators.
func (v *Volume) OnResize(changed func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.resized = changed
}

// Grow makes the volume sizeBytes long, by grow, which runs while no change is in flight and makes the new size durable.
// A volume is not made smaller while it is open (domain.ErrInvalid).
func (v *Volume) Grow(sizeBytes int64, grow func() error) error {
	if err := v.alter(func() error {
		if err := checkSize(sizeBytes); err != nil {
			return err
		}
		if sizeBytes < v.size.Load() {
			return fmt.Errorf("it has %d bytes; it is not made smaller while it is open: %w", v.size.Load(), domain.ErrInvalid)
		}
		if err := grow(); err != nil {
			return err
		}
		v.size.Store(sizeBytes)
		return nil
	}); err != nil {
		return fmt.Errorf("resize volume %s to %d bytes: %w", v.path, sizeBytes, err)
	}
	v.mu.Lock()
	changed := v.resized
	v.mu.Unlock()
	if changed != nil {
		changed()
	}
	return nil
}

// Freeze calls f at a point between all changes: every change whose done was called is in the store, and durable; none is
// half there. f may replace what the store writes to. A flush that fails here is the volume's end, as any other.
func (v *Volume) Freeze(f func() error) error {
	if err := v.flush(); err != nil { // most of it, while changes go on
		return err
	}
	return v.alter(func() error {
		if err := v.flush(); err != nil {
			return err
		}
		return f()
	})
}

// alter runs f while no change is in flight.
func (v *Volume) alter(f func() error) error {
	v.atomic.Lock() // which ends with nothing half written
	defer v.atomic.Unlock()
	v.order.Lock()
	defer v.order.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	return f()
}
