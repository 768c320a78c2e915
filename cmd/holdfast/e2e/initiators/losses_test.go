//go:build e2e

package initiators

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
)

// lossRounds is how many sites are lost in each mode: one, or as many as the variable says.
func lossRounds(t *testing.T) int {
	s := os.Getenv("HOLDFAST_GUEST_LOSSES")
	if s == "" {
		return 1
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("HOLDFAST_GUEST_LOSSES=%q: want a number above 0", s)
	}
	return n
}

const (
	// logRecord is the program logit: it appends record $1 to the log, durably.
	logRecord = "#!/bin/sh\nprintf '%8d\\n' $1 | dd of=/mnt/log/log oflag=append conv=notrunc,fsync bs=9 2>/dev/null\n"
	// lossWriter, in the guest, appends n to the log on one disk, inserts row n into the database on the other, and says so; then
	// n+1. SQLite's shell does all of it, so that one begins only when the other has ended.
	lossWriter = `{ echo "pragma synchronous=full;"; n=%d; while :; do echo ".system logit $n"; ` +
		`echo "insert into t values($n, printf('%%0200d', $n)); select 'ACK $n';"; n=$((n+1)); done; } | sqlite3 -batch /mnt/data/db`
	// lossCheck prints how many records the log has and how many of them are not in their place, and of the database whether it is
	// whole, how many rows it has, the greatest number and how many rows are damaged.
	lossCheck = `awk '{ if (length($0) != 8 || $1+0 != NR) bad++ } END { print NR+0, bad+0 }' /mnt/log/log; ` +
		`sqlite3 -batch /mnt/data/db "pragma integrity_check; select count(*), ifnull(max(id),0), ifnull(sum(body <> printf('%0200d', id)),0) from t"`
)

// pair is a guest on the two volumes of a group that is replicated.
type pair struct {
	t     *testing.T
	s     *sitestest.Sites
	m     machine
	mode  string
	at    string // the site that serves
	other string
	g     *guest
	acked []int // one number, as collect and drain take it
}

// boot starts the guest at the site that serves.
func (p *pair) boot() {
	p.t.Helper()
	p.m.disks = nil
	for _, url := range p.s.Serves(p.at) {
		part := strings.Split(url, "/")
		p.m.disks = append(p.m.disks, iscsiVolume(part[2], part[3], ""))
	}
	p.g = boot(p.t, p.m)
}

// create makes file systems, log and database.
func (p *pair) create() {
	p.t.Helper()
	p.g.run("mkfs.ext4 -q /dev/vda && mkfs.ext4 -q /dev/vdb && mkdir -p /mnt/data /mnt/log && mount /dev/vda /mnt/data && mount /dev/vdb /mnt/log")
	p.g.run(`: >/mnt/log/log && sqlite3 -batch /mnt/data/db "pragma journal_mode=wal; pragma synchronous=full; create table t(id integer primary key, body text)" && sync`)
}

// write has the guest write until n more records are acknowledged.
func (p *pair) write(n int) {
	p.t.Helper()
	collectFrom(p.t, p.g, "the guest", 0, p.acked, n)
}

// recover mounts what the site has and holds it to what was acknowledged: at least `least` records, at most `most`.
func (p *pair) recover(what string, least, most int) {
	p.t.Helper()
	p.g.run("mkdir -p /mnt/data /mnt/log && mount /dev/vda /mnt/data && mount /dev/vdb /mnt/log")
	var logged, misplaced, rows, greatest, damaged int
	var whole string
	out := p.g.run(lossCheck)
	if _, err := fmt.Sscanf(strings.ReplaceAll(out, "|", " "), "%d %d\n%s\n%d %d %d", &logged, &misplaced, &whole, &rows, &greatest, &damaged); err != nil {
		p.t.Fatalf("%s: %v: %q", what, err, out)
	}
	switch {
	case misplaced != 0:
		p.t.Fatalf("%s: the log of %d records is no prefix: %d are not in their place\n%s", what, logged, misplaced, p.g.run("cat -A /mnt/log/log"))
	case whole != "ok" || damaged != 0 || rows != greatest:
		p.t.Fatalf("%s: the database is damaged: %q", what, out)
	case logged != rows && logged != rows+1:
		p.t.Fatalf("%s: the log has %d records and the database %d rows: the two volumes are not of one moment", what, logged, rows)
	case rows < least || logged > most:
		p.t.Fatalf("%s: the log has %d records and the database %d rows; want %d to %d", what, logged, rows, least, most)
	}
	p.g.healthy()
	if logged == rows+1 { // what was cut in the middle is completed
		p.g.run(fmt.Sprintf(`sqlite3 -batch /mnt/data/db "insert into t values(%d, printf('%%0200d', %d))"`, logged, logged))
	}
	p.t.Logf("%s: %d acknowledged, %d rows, %d records", what, p.acked[0], rows, logged)
	p.acked[0] = logged
}

// lose kills the site that serves and the guest there, while it writes, and goes on at the other.
func (p *pair) lose(round int, r *rand.Rand) {
	p.t.Helper()
	p.write(3 + r.IntN(20))
	if r.IntN(2) == 0 {
		p.s.Kill(p.at)
		p.g.kill()
	} else {
		p.g.kill()
		p.s.Kill(p.at)
	}
	drain(p.g, 0, p.acked)
	lost := p.at
	p.at, p.other = p.other, p.at
	p.boot()
	least := p.acked[0]
	if p.mode == "async" {
		least = 0
	}
	p.recover(fmt.Sprintf("round %d, site %s lost", round, lost), least, p.acked[0]+1)
	p.s.Start(lost)
	p.s.Follows(p.at, p.mode == "sync")
	p.start()
}

// start begins to write where the guest stands.
func (p *pair) start() { p.g.shells[0].send(fmt.Sprintf(lossWriter, p.acked[0]+1)) }

// goBack has ten checkpoints taken while the guest writes, and goes on at the other site from one of them.
func (p *pair) goBack(r *rand.Rand) {
	p.t.Helper()
	type point struct {
		api.Checkpoint
		before, after int
	}
	var points []point
	p.s.Listed(p.other, func(api.Checkpoint) bool { return true }) // its past has begun
	for range 10 {
		x := point{before: p.acked[0]}
		p.s.Must(&x.Checkpoint, "checkpoint", "create", sitestest.Group, "--label", "one of ten")
		out, code := p.g.shells[1].try("wc -l </mnt/log/log") // what came there until now, acknowledged or not
		var err error
		if x.after, err = strconv.Atoi(strings.TrimSpace(out)); err != nil || code != 0 {
			p.t.Fatalf("the guest counts %q, exit status %d", out, code)
		}
		p.write(2)
		points = append(points, x)
	}
	x := points[r.IntN(len(points))]
	p.g.kill()
	drain(p.g, 0, p.acked)
	p.s.BackTo(p.at, p.other, x.Checkpoint)
	p.at, p.other = p.other, p.at
	p.boot()
	p.recover(fmt.Sprintf("back to checkpoint %d, of records %d to %d", x.LSN, x.before, x.after), x.before, x.after)
	p.s.Follows(p.at, p.mode == "sync")
	p.start()
}

// TestAGuestGoesOnAtTheOtherSiteWithBothItsDisks loses the site that a guest runs at, again and again, and goes back to checkpoints.
// The guest has an ordered log on one disk and a database on the other. What the other site has of both is always of one moment, none of it
// damaged; of a synchronous group it has all that was acknowledged.
func TestAGuestGoesOnAtTheOtherSiteWithBothItsDisks(t *testing.T) {
	tr := newTree(t)
	tr.program("sqlite3", "mkfs.ext4", "e2fsck")
	tr.file("usr/bin/logit", logRecord, 0o755)
	m := machine{memoryMiB: 256, kernel: tr.kernel(), initrd: tr.initrd()}
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			s := sitestest.New(t, sitestest.Options{Product: holdfast(t), Mode: mode, VolumeSize: "64MiB", Checkpoints: "{every: 1s}"})
			p := &pair{t: t, s: s, m: m, mode: mode, at: "a", other: "b", acked: []int{0}}
			p.boot()
			p.create()
			s.Follows("a", mode == "sync")
			p.start()
			p.write(2)
			if testing.Short() { // one boot at the other site for each mode
				if mode == "sync" {
					p.lose(0, r)
				} else {
					p.goBack(r)
				}
				return
			}
			rounds := lossRounds(t)
			back := rounds / 2
			for round := range rounds {
				p.lose(round, r)
				p.write(2)
				if round == back || r.IntN(5) == 0 {
					p.goBack(r)
					p.write(2)
				}
			}
		})
	}
}
