package site

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	sharedMemory = "/dev/shm"
	tmpfsMagic   = 0x01021994 // statfs(2)
)

// voterMemory is the folder in memory where the voter keeps what outlives its process and not its machine; empty when there is
// none that can be trusted, which costs time after a restart of the voter and nothing else.
func voterMemory(cfg config.Config, log *slog.Logger) string {
	dir := cfg.RunDir
	if dir == "" {
		// Two installations on one machine are told apart by their state folders.
		state, err := filepath.Abs(cfg.DataDir)
		if err != nil {
			return ""
		}
		sum := sha256.Sum256([]byte(state))
		own := filepath.Join(sharedMemory, fmt.Sprintf("holdfast-%d", os.Geteuid()))
		if err := private(own); err != nil {
			log.Warn("voter forgets its grants with its process", "site", string(cfg.Site), "error", err)
			return ""
		}
		dir = filepath.Join(own, cfg.Cluster+"-"+string(cfg.Site)+"-"+hex.EncodeToString(sum[:8]))
	}
	dir = filepath.Join(dir, "votes")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		log.Warn("voter forgets its grants with its process", "site", string(cfg.Site), "error", err)
		return ""
	}
	if err := private(dir); err != nil {
		log.Warn("voter forgets its grants with its process", "site", string(cfg.Site), "error", err)
		return ""
	}
	return dir
}

// private makes a folder that only this user can write, in memory, and refuses one that is not: whoever could write there could
// make the voter grant a lease that is held.
func private(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make folder in memory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at folder in memory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("folder %s: %w: it must be a folder of user %d that nobody else can enter: remove it, or set run_dir to another", dir, domain.ErrRefused, os.Geteuid())
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at folder in memory %s: %w", dir, err)
	}
	if int64(fs.Type) != tmpfsMagic {
		return fmt.Errorf("folder %s: %w: it is not in memory: set run_dir to a folder on a tmpfs", dir, domain.ErrRefused)
	}
	return nil
}
