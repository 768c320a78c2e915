package filevolume

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// errClosed answers what reaches a closed volume.
var errClosed = errors.New("volume is closed")

// whenDurable calls done once everything that was written before is durable.
func (v *Volume) whenDurable(done func(error)) {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		done(fmt.Errorf("volume %s: %w: %w", v.path, target.ErrMedium, errClosed))
		return
	}
	v.waiting = append(v.waiting, done)
	select { // under mu, so that Close never closes work in between
	case v.work <- struct{}{}:
	default:
	}
	v.mu.Unlock()
}

// commit is the volume's committer: one fdatasync for all that waits when the last one ended, without a timer.
func (v *Volume) commit() {
	defer close(v.ended)
	for range v.work {
		v.mu.Lock()
		batch := v.waiting
		v.waiting = nil
		v.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		err := v.flush()
		for _, done := range batch {
			done(err)
		}
	}
}

// Flush makes what was written durable. Its first failure is the volume's end: whoever changes the store's files in another way
// than through the volume makes that durable by it too, since the kernel tells of a failure once only.
func (v *Volume) Flush() error { return v.flush() }

// flush makes what was written durable. Its first failure is the volume's end.
func (v *Volume) flush() error {
	// The kernel tells of a page it could not write to one fdatasync of the file alone: the next begins when that is known here.
	v.syncing.Lock()
	defer v.syncing.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.sync(); err != nil {
		return v.fail(fmt.Errorf("flush volume %s: %w: %w; the volume stops, since what was written may be lost: check the disk and restore", v.path, target.ErrMedium, err))
	}
	return v.Err()
}

// fail ends the volume for good, unless it has ended, and says what ended it.
func (v *Volume) fail(err error) error {
	v.failed.CompareAndSwap(nil, &err)
	return v.Err()
}

// Fail ends the volume for good, as a disk that lost something does.
func (v *Volume) Fail(err error) { _ = v.fail(err) }

// Close makes everything durable, and lets go of the file. Nothing may be submitted any more; what was is settled.
func (v *Volume) Close() error {
	v.reads.Wait()
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	close(v.closing)
	v.mu.Unlock()
	v.erasing.Wait()
	v.mu.Lock()
	close(v.work) // what waits was announced and is still served
	v.mu.Unlock()
	<-v.ended
	return errors.Join(v.flush(), v.store.Close(), v.intent.close())
}
