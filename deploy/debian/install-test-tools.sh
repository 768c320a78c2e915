#!/bin/sh
# Installs what the longer tests need from Debian: QEMU and its tools, libvirt, a guest kernel and what runs in guests (the
# kernel's iSCSI tools, file systems, databases), a boot loader, iSCSI and NBD clients, a second iSCSI target, BIND, the
# spin model checker with a C compiler, and Docker. May be run again at any time; asks nothing. No daemon of these packages is left running: the
# tests start their own, on ports of loopback.
set -eu

packages="qemu-system-x86 qemu-utils qemu-block-extra qemu-guest-agent libiscsi-bin libnbd-bin bind9 bind9-dnsutils tgt cpio busybox-static
open-iscsi libvirt-daemon libvirt-clients syslinux syslinux-common mtools xfsprogs btrfs-progs sqlite3 postgresql
linux-image-cloud-amd64 e2fsprogs mount kmod jq debootstrap lintian nbdkit fio spin gcc libc6-dev
ca-certificates docker.io docker-compose"

fail() {
	echo "install-test-tools: $*" >&2
	exit 1
}

[ "$#" -eq 0 ] || fail "takes no arguments (got: $*)"
[ -r /etc/debian_version ] && command -v apt-get >/dev/null 2>&1 ||
	fail "this is not Debian: install these with your own package manager: $(echo $packages)"

missing=""
for p in $packages; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) || status=""
	[ "$status" = installed ] || missing="$missing $p"
done
if [ -z "$missing" ]; then
	echo "install-test-tools: all installed already"
	exit 0
fi
[ "$(id -u)" -eq 0 ] || fail "must be root to install$missing: run it with sudo"

# While this file stands, a package's installation starts no service (policy-rc.d, exit 101: forbidden).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -q || fail "apt-get update failed: is a Debian mirror reachable?"
# shellcheck disable=SC2086 # one word a package
apt-get install -q -y --no-install-recommends $missing ||
	fail "apt-get could not install$missing: see its message above"
echo "install-test-tools: installed$missing"
