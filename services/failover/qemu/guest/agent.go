package guest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
)

// AgentPort is the name of the virtio-serial port that the guest agent is reached on.
const AgentPort = "org.qemu.guest_agent.0"

// agentProgram is the QEMU guest agent, on the host as in the guest (package qemu-guest-agent).
const agentProgram = "/usr/sbin/qemu-ga"

func hasAgent() bool { return fileExists(agentProgram) }

// agentPause is between two starts of an agent that ended.
const agentPause = time.Second

// runAgent keeps the guest agent running, where the initrd has one, until ctx ends. A guest without one is not held still for
// checkpoints, and the host says so: here nothing fails for want of it.
func runAgent(ctx context.Context, con *console) {
	if !hasAgent() {
		return
	}
	device, err := agentDevice(ctx)
	if err != nil {
		con.say("no guest agent: %v", err)
		return
	}
	for ctx.Err() == nil {
		err := exec.CommandContext(ctx, agentProgram, "-m", "virtio-serial", "-p", device, "-t", "/run").Run()
		if ctx.Err() == nil {
			con.say("guest agent ended: %v", err)
		}
		_ = clock.Sleep(ctx, agentPause)
	}
}

// agentDevice finds the agent's port by its name.
func agentDevice(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == AgentPort {
				return "/dev/" + filepath.Base(filepath.Dir(n)), nil
			}
		}
		if err := clock.Sleep(ctx, 20*time.Millisecond); err != nil {
			return "", fmt.Errorf("port %s: %w", AgentPort, err)
		}
	}
}
