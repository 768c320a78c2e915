// Command guestinit is the guest's init alone, small and quick to build, for the tests.
package main

import (
	"fmt"
	"os"

	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
)

func main() {
	if err := guest.GuestInit(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
