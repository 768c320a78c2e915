package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// hostDir is where a host's agent keeps its state.
func (l layout) hostDir(s domain.SiteID, h domain.HostID) string {
	return filepath.Join(l.stateDir(s), "hosts", string(h))
}

// ledgers reads what every boot of a VM, on every host of every site, wrote down before it acknowledged.
func (l layout) ledgers(vm domain.VMID) ([]ledger.Line, error) {
	var lines []ledger.Line
	for site, hosts := range siteHosts {
		for _, h := range hosts {
			f, err := os.Open(hostagent.LedgerPath(l.hostDir(site, h), vm))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read ledger of VM %s: %w", vm, err)
			}
			more, err := ledger.Parse(f)
			_ = f.Close()
			if err != nil {
				return nil, fmt.Errorf("read ledger of VM %s on host %s: %w", vm, h, err)
			}
			lines = append(lines, more...)
		}
	}
	slices.SortStableFunc(lines, func(a, b ledger.Line) int { return int(a.ClockNS - b.ClockNS) })
	return lines, nil
}

// diskLog is the log as the disks of a serving site hold it.
type diskLog struct {
	report applog.Report
	found  map[uint64]string // seq to hash, of the first volume
	err    error             // the volumes disagree
}

// readDisks reads a VM's log from the disks a site serves, through iSCSI, as any initiator would.
func readDisks(ctx context.Context, disks []api.Disk) (diskLog, error) {
	out := diskLog{found: map[uint64]string{}}
	var reports []applog.Report
	for i, d := range disks {
		s, err := initiator.Dial(ctx, d.URL, initiator.Options{Name: "iqn.2026-11.dev.holdfast:verifier"})
		if err != nil {
			return out, fmt.Errorf("read volume %s: %w", d.Volume, err)
		}
		opts := applog.Options{Lookahead: 4 << 20}
		if i == 0 {
			opts.Each = func(r applog.Record, h applog.Hash) { out.found[r.Seq] = h.String() }
		}
		r, err := applog.ScanWith(s, opts)
		_ = s.Close()
		if err != nil {
			return out, fmt.Errorf("scan volume %s: %w", d.Volume, err)
		}
		reports = append(reports, r)
	}
	if len(reports) == 0 {
		return out, fmt.Errorf("read disks: %w: the group serves none", domain.ErrNotFound)
	}
	out.report, out.err = reports[0], applog.CheckGroup(reports)
	return out, nil
}

// readGuestDisk reads the log of a Linux guest: it copies the disk through iSCSI into a file, lets the file system replay
// its journal there, checks it, and takes the log out of it.
func readGuestDisk(ctx context.Context, disk api.Disk, dir string) (diskLog, error) {
	out := diskLog{found: map[uint64]string{}}
	image := filepath.Join(dir, "verify-"+string(disk.Volume)+".img")
	if err := copyDisk(ctx, disk, image); err != nil {
		return out, err
	}
	defer func() { _ = os.Remove(image) }()
	r, err := guest.VerifyDiskWith(ctx, image, applog.Options{Lookahead: 4 << 20, Each: func(r applog.Record, h applog.Hash) { out.found[r.Seq] = h.String() }})
	out.report = r
	if err != nil {
		return out, fmt.Errorf("verify volume %s: %w", disk.Volume, err)
	}
	return out, nil
}

func copyDisk(ctx context.Context, disk api.Disk, image string) error {
	s, err := initiator.Dial(ctx, disk.URL, initiator.Options{Name: "iqn.2026-11.dev.holdfast:verifier"})
	if err != nil {
		return fmt.Errorf("read volume %s: %w", disk.Volume, err)
	}
	defer func() { _ = s.Close() }()
	f, err := os.Create(image)
	if err != nil {
		return fmt.Errorf("copy volume %s: %w", disk.Volume, err)
	}
	_, err = io.Copy(f, io.NewSectionReader(s, 0, s.Capacity()))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copy volume %s: %w", disk.Volume, err)
	}
	return nil
}

// judge fills a group's report from the ledgers and the disk.
func judge(g *GroupReport, lines []ledger.Line, log diskLog) {
	var acks []ledger.Line
	for _, l := range lines {
		if l.Kind == ledger.KindAck {
			acks = append(acks, l)
		}
	}
	lost := ledger.Lost(acks, log.found)
	g.WritesAcked, g.LostWrites = len(acks), len(lost)
	g.WritesFound = g.WritesAcked - g.LostWrites
	g.PrefixOK = log.report.PrefixOK && log.err == nil
	g.ServedTwice = len(ledger.ServedTwice(lines)) > 0
	for _, l := range lost {
		g.LostBytes += int64(l.Bytes)
	}
	g.RPOSeconds = lossSpan(acks, lost).Seconds()
}

// lossSpan is the time from the last acknowledgement that was kept to the last one that was lost.
func lossSpan(acks, lost []ledger.Line) time.Duration {
	if len(lost) == 0 {
		return 0
	}
	first, last := lost[0].ClockNS, lost[0].ClockNS
	for _, l := range lost {
		first, last = min(first, l.ClockNS), max(last, l.ClockNS)
	}
	kept := first
	for _, a := range acks {
		if a.ClockNS < first {
			kept = a.ClockNS
		}
	}
	return time.Duration(last - kept)
}
