// Package serve is one volume as an iSCSI LUN without any cluster: what `holdfast volume serve` runs.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/record"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const lunNumber = 0

// Options are the command's arguments as they were given.
type Options struct {
	File string
	// NBD is a second door, by another protocol.
	NBD NBD
	// Pool is the folder of a pool, which is served instead of a file; it is made when it is not there.
	Pool string
	// Size is the volume's size with its unit (1GiB). A file that is not there is created with it; one that is must have
	// it. Empty takes the size of the file, which then must be there.
	Size string
	// Listen is host:port; port 0 takes a free one.
	Listen string
	// Durability is "cached" or "strict"; empty is cached.
	Durability string
	// IO is "cached" or "direct" (past the page cache); empty is cached.
	IO string
	// SanitizeRate is how many bytes a second a SANITIZE writes at most, with its unit; empty or "none" is no limit.
	SanitizeRate string
	// CHAP is USER:FILE, where FILE holds the secret, or the new and the old one (package chap); empty lets everyone in.
	CHAP string
	// Removable serves the volume as a removable medium, which initiators may eject and load again; ADR 9 says why that is
	// the command's default and no replicated volume's.
	Removable bool
	// DiscoveryCHAP is the same for discovery sessions; without it they need what the volume needs.
	DiscoveryCHAP string
	// Verbose logs each session.
	Verbose bool
}

// Run serves the volume until ctx ends; then it drops the sessions, waits for what is in flight, makes all durable and
// returns nil. It prints the unit's URL as its first line on stdout when initiators can log in, and the NBD URI, if there is one, as
// its second. Bad options wrap domain.ErrInvalid.
func Run(ctx context.Context, o Options, stdout, stderr io.Writer) (err error) {
	level := slog.LevelWarn
	if o.Verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	guard, err := guardOf("--chap", o.CHAP, log)
	if err != nil {
		return err
	}
	discovery, err := guardOf("--discovery-chap", o.DiscoveryCHAP, log)
	if err != nil {
		return err
	}
	mode, err := blockfile.ParseMode(o.IO)
	if err != nil {
		return err
	}
	ln, err := listen(ctx, o.Listen)
	if err != nil {
		return err
	}
	defer ln.Close() //nolint:errcheck // Serve closes it first
	if o.Pool != "" {
		return runPool(ctx, o, ln, guard, target.Config{Log: log, Discovery: discovery}, stdout)
	}
	front, err := listenNBD(ctx, o.NBD, log)
	if err != nil {
		return err
	}
	if front != nil {
		defer front.ln.Close() //nolint:errcheck // Serve closes it first
	}
	v, err := openVolume(o, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	s := target.New(target.Config{Log: log, Discovery: discovery})
	iqn := targetName(o.File)
	if err := s.AddGuarded(iqn, map[int]target.Unit{lunNumber: unit{v, o.Removable, reservationsOf(o.File)}}, guard); err != nil {
		return err
	}
	urls := fmt.Sprintf("iscsi://%s/%s/%d\n", reachable(ln.Addr()), iqn, lunNumber)
	if front != nil {
		if err := front.export(o.File, v, o.NBD.TLS.Cert != ""); err != nil {
			return err
		}
		urls += front.uri + "\n"
	}
	if _, err := io.WriteString(stdout, urls); err != nil {
		return fmt.Errorf("print the URL: %w", err)
	}
	return serveBoth(ctx, func(ctx context.Context) error { return s.Serve(ctx, ln) }, front)
}

// unit is the volume as initiators see it. What they want kept of their reservations is in a file beside the volume's.
type unit struct {
	*filevolume.Volume
	removable    bool
	reservations record.File
}

var _ target.Keeper = unit{}

func reservationsOf(file string) record.File {
	return record.File{FS: vfs.OS(), Path: file + ".reservations"}
}

// Kept implements target.Keeper.
func (u unit) Kept() ([]byte, error) { return u.reservations.Load() }

// Keep implements target.Keeper.
func (u unit) Keep(b []byte) error { return u.reservations.Save(b) }

// Info describes the volume.
func (u unit) Info() target.UnitInfo {
	info := u.Volume.Info()
	info.Removable = u.removable
	return info
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("listen address %q: write host:port, as in 127.0.0.1:3260: %w", addr, domain.ErrInvalid)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another program has this port; stop it or give another --listen address: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

// reachable is the address to put into the URL: one that listens everywhere is reached on the loopback.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	host := "127.0.0.1"
	if tcp.IP.To4() == nil && !strings.HasPrefix(a.String(), "[::]") {
		host = "::1"
	}
	return net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}

// openVolume opens the file, making it first when it is not there and a size was given.
func openVolume(o Options, mode blockfile.Mode) (*filevolume.Volume, error) {
	durability := domain.Durability(o.Durability)
	if durability == "" {
		durability = domain.DurabilityCached
	}
	size, err := wantedSize(o)
	if err != nil {
		return nil, err
	}
	rate, err := sanitizeRate(o.SanitizeRate)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(o.File); errors.Is(err, fs.ErrNotExist) {
		if err := forget(reservationsOf(o.File)); err != nil {
			return nil, err
		}
		if err := filevolume.Create(o.File, size); err != nil {
			return nil, err
		}
	}
	return filevolume.OpenSettings(o.File, filevolume.Settings{SizeBytes: size, Durability: durability, SanitizeRate: rate}, mode)
}

func sanitizeRate(s string) (int64, error) {
	if s == "" || s == "none" {
		return 0, nil
	}
	rate, err := config.ParseSize(s)
	if err != nil || rate <= 0 {
		return 0, errors.Join(fmt.Errorf("--sanitize-rate %q: write bytes a second with their unit, as in 100MiB, or none: %w", s, domain.ErrInvalid), err)
	}
	return int64(rate), nil
}

// forget removes the reservations of a volume that is gone: nobody holds the new one.
func forget(r record.File) error {
	err := r.FS.Remove(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func wantedSize(o Options) (int64, error) {
	if o.File == "" {
		return 0, fmt.Errorf("no file named: %w", domain.ErrInvalid)
	}
	if o.Size != "" {
		size, err := config.ParseSize(o.Size)
		if err != nil {
			return 0, fmt.Errorf("--size: %w: %w", err, domain.ErrInvalid)
		}
		return int64(size), nil
	}
	info, err := os.Stat(o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("volume %s: no such file; give --size to create it: %w", o.File, domain.ErrInvalid)
	}
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		return 0, fmt.Errorf("volume %s: it is a directory; name a file: %w", o.File, domain.ErrInvalid)
	}
	if info.Mode().Type() == os.ModeDevice { // a block device has its size at its end
		f, err := os.Open(o.File)
		if err != nil {
			return 0, err
		}
		size, err := f.Seek(0, io.SeekEnd)
		return size, errors.Join(err, f.Close())
	}
	return info.Size(), nil
}

// targetName is an iqn with the file's name in it, in the characters RFC 3722 allows.
func targetName(file string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, filepath.Base(file))
	if len(name) > 128 {
		name = name[:128]
	}
	return "iqn.2026-11.dev.holdfast:" + name
}

// guardOf reads USER:FILE; package chap says what the file holds. It is read again at each login.
func guardOf(option, arg string, log *slog.Logger) (target.Guard, error) {
	if arg == "" {
		return nil, nil
	}
	user, path, ok := strings.Cut(arg, ":")
	if !ok || user == "" || path == "" {
		return nil, fmt.Errorf("%s %q: write USER:FILE, where FILE holds the secret: %w", option, arg, domain.ErrInvalid)
	}
	secrets, err := chap.Open(chap.Settings{User: user, SecretFile: path}, log)
	if err != nil {
		return nil, err
	}
	return target.GuardOf(secrets), nil
}
