// Package clock reads CLOCK_BOOTTIME: the clock that leases run on. Go's monotonic clock stands still while a machine
// is suspended and the wall clock steps; a lease counted on either could outlive the grant behind it.
package clock

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Time is a reading of CLOCK_BOOTTIME: time since the machine booted, suspends included. Only differences between two
// readings on one machine mean anything.
type Time time.Duration

// Add moves a reading by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d) }

// Sub is the time from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t - u) }

// Before reports whether t is earlier than u.
func (t Time) Before(u Time) bool { return t < u }

// Now reads CLOCK_BOOTTIME. It stops the process where the kernel has no such clock, since no lease could be kept there.
func Now() Time {
	var ts unix.Timespec
	// Raw: it does not wait, and each answer asks for it. Telling the scheduler of the call would cost more than the call.
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v: this kernel cannot keep leases", errno))
	}
	return Time(ts.Nano())
}
