//go:build e2e

package initiators

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The guest's own NFS server exports a folder in memory by what its kernel's caches are told, which elsewhere rpc.mountd tells them:
// who asks from where (auth.unix.ip), what a file handle stands for (nfsd.fh), and how it is exported (nfsd.export; flags: any port,
// no subtree check, has a number). The formats are those of fs/nfsd/export.c.
const exportFolder = `mkdir -p /srv /m1 /m2 /run/rpc && mount -t tmpfs tmpfs /srv && mount -t nfsd nfsd /proc/fs/nfsd &&
 echo 10 >/proc/fs/nfsd/nfsv4leasetime && echo 10 >/proc/fs/nfsd/nfsv4gracetime && echo "-2 -3 +4" >/proc/fs/nfsd/versions &&
 printf 'nfsd 127.0.0.1 2147483647 guest\n' >/proc/net/rpc/auth.unix.ip/channel &&
 printf 'guest 1 \\x00000000 2147483647 /srv\n' >/proc/net/rpc/nfsd.fh/channel &&
 printf 'guest /srv 2147483647 9218 65534 65534 0\n' >/proc/net/rpc/nfsd.export/channel &&
 echo 4 >/proc/fs/nfsd/threads && (echo Y >/proc/fs/nfsd/v4_end_grace || true)`

// TestAShareOverNFSVotes has the suite of passive voters run over an NFS export that is mounted twice, as two sites have it, each mount with
// caches of its own. Client and server are the kernel's of a guest, since this machine's may have neither.
func TestAShareOverNFSVotes(t *testing.T) {
	suite := filepath.Join(t.TempDir(), "sharevoter.test")
	build := exec.Command("go", "test", "-c", "-o", suite, "./services/quorum/sharevoter")
	build.Dir, build.Env = "../../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	r := newTree(t)
	r.load("nfsd", "nfsv4")
	command(t, "cp", suite, filepath.Join(r.dir, "root", "sharevoter.test"))
	g := boot(t, machine{memoryMiB: 768, kernel: r.kernel(), initrd: r.initrd()})
	g.run(strings.ReplaceAll(exportFolder, "\n", " "))
	for _, at := range []string{"/m1", "/m2"} {
		g.run("mount -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,nosharecache,noac,lookupcache=none 127.0.0.1:/ " + at)
	}
	if both := g.run("grep -c ' nfs4 ' /proc/mounts"); both != "2" {
		t.Fatalf("%s NFS mounts", both)
	}
	out := g.run("HOLDFAST_SHARE_MOUNTS=/m1:/m2 /root/sharevoter.test -test.v -test.short -test.timeout 5m -test.run 'TwoMounts'")
	if !strings.Contains(out, "--- PASS: TestAShareSeenThroughTwoMountsIsAPassiveVoter") {
		t.Errorf("it did not run:\n%s", out)
	}
	t.Log(out)
	g.off()
}
