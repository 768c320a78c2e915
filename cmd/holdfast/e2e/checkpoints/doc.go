// Package checkpoints holds application-consistent checkpoints to a real guest: Linux in QEMU with the QEMU guest agent, ext4 on two
// replicated volumes that are written to all the time. What a target exports must be a clean file system where the checkpoint says
// that it is application-consistent, and is one with a journal to replay where it does not; the guest goes on whoever dies while it
// is frozen.
//
// The tests need the build tag e2e.
package checkpoints
