//go:build e2e

package quorum

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
)

// network is a namespace for each site, joined by a bridge in one more. The test has an address on the bridge: no fault is between it and
// a site. (The bridge is not in the machine's own namespace, whose packet filter may be made for bridges, too, as Docker's is.)
type network struct {
	prefix string
	base   string // the first three numbers of every address
}

// device is this machine's end, which goes with the hub's. Its name is of this run: one that was interrupted leaves its own.
func (n *network) device() string { return strings.ReplaceAll(n.prefix, "-", "") }

func (n *network) namespace(site string) string { return n.prefix + site }
func (n *network) address(site string) string   { return sitestest.AddressIn(n.base, site) }

// newNetwork makes it; where that is not possible the test is skipped, and fails in CI.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{prefix: fmt.Sprintf("hfq-%d-", os.Getpid()), base: fmt.Sprintf("10.%d.%d", 64+rand.IntN(64), rand.IntN(256))}
	t.Cleanup(n.remove)
	if err := n.make(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no network of namespaces: %v", err)
		}
		t.Skipf("SKIPPED: no network of namespaces, which needs root, ip and nft: %v", err)
	}
	return n
}

func (n *network) make() error {
	hub := n.namespace("hub")
	commands := []string{
		"ip netns add " + hub,
		"ip -n " + hub + " link add br0 type bridge",
		"ip -n " + hub + " link set br0 up",
		"ip link add " + n.device() + " type veth peer name host netns " + hub,
		"ip -n " + hub + " link set host master br0 up",
		"ip addr add " + n.base + ".1/24 dev " + n.device(),
		"ip link set " + n.device() + " up",
	}
	for _, site := range sites {
		ns := n.namespace(site)
		commands = append(commands,
			"ip netns add "+ns,
			"ip -n "+ns+" link set lo up",
			"ip -n "+ns+" link add eth0 type veth peer name to-"+site+" netns "+hub,
			"ip -n "+hub+" link set to-"+site+" master br0 up",
			"ip -n "+ns+" addr add "+n.address(site)+"/24 dev eth0",
			"ip -n "+ns+" link set eth0 up")
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, bytes.TrimSpace(out))
		}
	}
	return n.set(nil)
}

func (n *network) remove() {
	for _, name := range append(slices.Clone(sites), "hub") {
		_ = exec.Command("ip", "netns", "del", n.namespace(name)).Run() // may not have been made
	}
}

// command runs a program at a site.
func (n *network) command(site, program string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.namespace(site), program}, args...)...)
}

// deaf is a site that does not hear another, or only some of what it sends. The other hears it.
type deaf struct {
	at, to  string
	percent int // of the packets that are lost
}

// cut is two sites that do not hear one another.
func cut(a, b string) []deaf { return []deaf{{a, b, 100}, {b, a, 100}} }

// set has exactly these be deaf from now on.
func (n *network) set(all []deaf) error {
	for _, site := range sites {
		var rules strings.Builder
		rules.WriteString("table inet hf\ndelete table inet hf\ntable inet hf {\n chain in {\n  type filter hook input priority 0\n")
		for _, d := range all {
			if d.at == site && d.percent >= 100 {
				fmt.Fprintf(&rules, "  ip saddr %s drop\n", n.address(d.to))
			} else if d.at == site {
				fmt.Fprintf(&rules, "  ip saddr %s numgen random mod 100 < %d drop\n", n.address(d.to), d.percent)
			}
		}
		rules.WriteString(" }\n}\n")
		nft := n.command(site, "nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules.String())
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("filter of site %s: %w: %s", site, err, bytes.TrimSpace(out))
		}
	}
	return nil
}
