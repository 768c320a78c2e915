// Command holdfast is the one binary: every service, the command line, and the all-in-one.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
)

func main() {
	if guest.IsInit() {
		if err := guest.GuestInit(); err != nil {
			fmt.Fprintln(os.Stderr, "holdfast:", err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
	}
	os.Exit(exitCode(err))
}

func newRoot() *cobra.Command {
	root := parent(&cobra.Command{Use: "holdfast", Short: "Disaster recovery for VMs on iSCSI storage", SilenceUsage: true, SilenceErrors: true})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", err, domain.ErrInvalid) })
	root.AddCommand(demoCommand(), siteCommand(), hostCommand(), statusCommand(), explainCommand(), whatIfCommand(), groupCommand(), linkCommand(), checkpointCommand(), quarantineCommand(), verifyCommand(), declarationCommand(), runCommand(), eventCommand(), volumeCommand(), configCommand(), healthcheckCommand())
	root.AddGroup(&cobra.Group{ID: "services", Title: "Services, each as a process of its own:"})
	root.AddCommand(serviceCommands()...)
	root.AddCommand(witnessCommand())
	return root
}

// errPartial is an answer that was printed, and from which something is missing.
var errPartial = errors.New("partial")

// exitCode is what scripts see: 0 ok, 1 error, 2 usage, 3 refused by a safety check, 4 partial, 5 timeout, 6 no quorum.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, domain.ErrInvalid):
		return 2
	case errors.Is(err, domain.ErrRefused), errors.Is(err, domain.ErrStaleEpoch), errors.Is(err, domain.ErrNoLease):
		return 3
	case errors.Is(err, errPartial):
		return 4
	case errors.Is(err, context.DeadlineExceeded):
		return 5
	case errors.Is(err, domain.ErrNoQuorum):
		return 6
	}
	return 1
}
