package hostagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// Spec is one boot of a VM, as a driver is asked for it.
type Spec struct {
	VM       domain.VMID
	Group    domain.GroupID
	Site     domain.SiteID
	Host     domain.HostID
	Epoch    domain.Epoch
	Instance string // names this boot
	Disks    []api.Disk
	Address  string // the VM's service listens on Address:Port
	Port     int
	Dir      string // the VM's own folder on the host, which exists
	// Gate says whether the VM may serve now; it is asked at the moment of acknowledging, where a driver can.
	Gate func() error
	// Ledger keeps a line of evidence. It fails when the line is not kept; then nothing is acknowledged.
	Ledger func(ledger.Line) error
}

// Driver starts VMs. Embedded and QEMU implement it.
type Driver interface {
	// Name is "embedded" or "qemu".
	Name() string
	// Start boots the VM and returns when its service listens. The end of ctx, also later, is loss of power: the VM is
	// gone at once. An error means that nothing runs.
	Start(ctx context.Context, spec Spec) (Instance, error)
}

// Instance is a running VM.
type Instance interface {
	// Stop ends the VM gracefully within the grace, then hard. When it returns nothing runs any more.
	Stop(ctx context.Context, grace time.Duration)
	// Kill ends the VM at once. When it returns nothing runs, writes or acknowledges any more.
	Kill(reason string)
	// Done is closed when the VM has ended, for whatever reason.
	Done() <-chan struct{}
	// Err is why a VM ended by itself, nil while it runs and after Stop and Kill.
	Err() error
}

// Freezer is an Instance whose guest can be held still.
type Freezer interface {
	// Freeze has the guest write out what it holds back and stop writing, and returns once it has. After an error the guest may be
	// frozen, or become so later: Thaw is called in any case. Errors: domain.ErrUnavailable (nobody answers in the guest),
	// domain.ErrRefused (it cannot, or took longer than ctx has).
	Freeze(ctx context.Context) error
	// Thaw lets the guest go on, and returns nil once it does for sure. stayed is false when it went on before. It may be repeated.
	Thaw(ctx context.Context) (stayed bool, err error)
}

// ExplainLogin adds the mend to a login that a site's volumes refused for the host's credentials; chap is what the host
// has, nil for none. Other errors stay as they are.
func ExplainLogin(err error, chap func() initiator.CHAP) error {
	if !errors.Is(err, initiator.ErrAuth) {
		return err
	}
	if chap == nil {
		return fmt.Errorf("%w: this host has no CHAP credentials: give iscsi.chap in its configuration the user and secret_file of the site's replicator", err)
	}
	return fmt.Errorf("%w: as CHAP user %q: give iscsi.chap in this host's configuration the same user and secret as the site's replicator has, or both of them none", err, chap().User)
}
