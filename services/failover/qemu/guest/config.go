package guest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
)

// Config is what a guest is told, on its kernel command line.
type Config struct {
	workload.Spec
	Volumes []domain.VolumeID `json:"volumes"` // the disks vda, vdb, ... in this order
	WallNS  int64             `json:"wall_ns"` // the host's wall clock when the guest is started
}

const (
	parameter = "hf.spec="
	// LogFile is the log on each of the guest's file systems, seen from its root.
	LogFile    = "/log"
	moduleList = "/modules/list"
)

// Parameter is the kernel parameter that carries c.
func (c Config) Parameter() (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode guest configuration: %w", err)
	}
	p := parameter + base64.RawURLEncoding.EncodeToString(b)
	if len(p) > 1800 { // the kernel's command line holds 2048
		return "", fmt.Errorf("encode guest configuration: %d bytes do not fit a kernel command line: %w", len(p), domain.ErrInvalid)
	}
	return p, nil
}

// ParseConfig finds the parameter in a kernel command line. The error wraps domain.ErrNotFound when there is none.
func ParseConfig(commandLine string) (Config, error) {
	for _, word := range strings.Fields(commandLine) {
		value, ok := strings.CutPrefix(word, parameter)
		if !ok {
			continue
		}
		var c Config
		b, err := base64.RawURLEncoding.DecodeString(value)
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if err != nil {
			return c, fmt.Errorf("decode guest configuration: %w", err)
		}
		return c, nil
	}
	return Config{}, fmt.Errorf("guest configuration on the kernel command line: %w", domain.ErrNotFound)
}
