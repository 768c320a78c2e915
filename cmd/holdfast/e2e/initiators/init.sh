#!/bin/sh
# The guests' init: modules, network, and then commands, one a line, from the serial lines after the console. After what a
# command prints comes a line with its exit status.
export PATH=/usr/sbin:/usr/bin:/applets HOME=/root TZ=UTC
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/console 2>&1
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
[ -e /applets/mount ] || /bin/busybox --install -s /applets
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /tmp /dev/shm

if [ -e /modules/list ]; then
	while read -r module; do
		insmod "$module" || echo "HF-FAIL insmod $module"
	done </modules/list
fi

# A guest whose root is on a disk goes on there.
root=$(sed -n 's/.*hf\.root=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$root" ] && [ ! -e /etc/on-disk ]; then
	mount -t ext4 "$root" /mnt || echo "HF-FAIL mount $root"
	umount /dev/pts /dev/shm /proc /sys
	exec switch_root /mnt /init
fi

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
	ip addr add 10.0.2.15/24 dev eth0
	ip link set eth0 up
	ip route add default via 10.0.2.2
fi

answer() {
	stty -F "$1" raw -echo
	exec 3<>"$1"
	echo HF-READY >&3
	while read -r line <&3; do
		sh -c "$line" </dev/null >&3 2>&1
		echo "HF-EXIT $?" >&3
	done
}
answer /dev/ttyS1 &
answer /dev/ttyS2 &
while :; do wait; sleep 3600; done
