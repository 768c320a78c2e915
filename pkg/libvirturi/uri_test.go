package libvirturi

import (
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestALibvirtURISaysWhereItsDaemonIs(t *testing.T) {
	for text, want := range map[string]URI{
		"qemu:///system":                             {"unix", "/run/libvirt/libvirt-sock", "qemu:///system", ""},
		"qemu+unix:///system#dc1":                    {"unix", "/run/libvirt/libvirt-sock", "qemu:///system", "dc1"},
		"qemu:///session?socket=/run/user/1000/sock": {"unix", "/run/user/1000/sock", "qemu:///session", ""},
		"qemu+tcp://10.0.0.7/system#dc1":             {"tcp", "10.0.0.7:16509", "qemu:///system", "dc1"},
		"xen+tcp://[2001:db8::1]:99/system":          {"tcp", "[2001:db8::1]:99", "xen:///system", ""},
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestWhatNoProbeReachesIsRefused(t *testing.T) {
	for _, text := range []string{"", "/run/libvirt/libvirt-sock", "qemu:system", "qemu:///session", "qemu://h/system", "qemu+ssh://h/system", "qemu+tcp:///system", "qemu+tcp://u:p@h/system", "qemu://%zz"} {
		if u, err := Parse(text); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%q: %+v, %v", text, u, err)
		}
	}
}
