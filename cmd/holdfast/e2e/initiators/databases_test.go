//go:build e2e

package initiators

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// database is one of the two, as the guest runs it on /mnt.
type database struct {
	name string
	// write inserts rows from a number on for ever, one a transaction, and prints "ACK n" after each commit. Row n's body
	// is made of n.
	write func(from int) string
	// check prints how many rows there are, the least and the greatest number, and how many rows are damaged.
	check string
}

const (
	sqlite   = "sqlite3 -batch /mnt/sqlite/db"
	postgres = "/bin/setpriv --reuid 100 --regid 100 --clear-groups "
	psql     = postgres + "psql -h /tmp -U postgres -At -q -v ON_ERROR_STOP=1 postgres"
	pgctl    = postgres + "pg_ctl -s -w -t 200 -D /mnt/pg/data -l /tmp/pg.log "
)

var databases = []database{
	{
		name: "SQLite",
		write: func(from int) string {
			return fmt.Sprintf(`{ echo "pragma synchronous=full;"; n=%d; while :; do echo "insert into t values($n, printf('%%0200d', $n)); select 'ACK $n';"; n=$((n+1)); done; } | %s`, from, sqlite)
		},
		check: sqlite + ` "pragma integrity_check; select count(*), ifnull(min(id),1), ifnull(max(id),0), ifnull(sum(body <> printf('%0200d', id)),0) from t"`,
	},
	{
		name: "PostgreSQL",
		write: func(from int) string {
			return fmt.Sprintf(`{ n=%d; while :; do echo "insert into t values($n, repeat(md5('$n'), 8));"; echo "\\echo ACK $n"; n=$((n+1)); done; } | %s`, from, psql)
		},
		check: psql + ` -c "select bt_index_check('t_pkey', true)" -c "select case when count(*) = 0 then 'ok' end from (select 1 where false) e" -c "select count(*), coalesce(min(id),1), coalesce(max(id),0), count(*) filter (where body <> repeat(md5(id::text), 8)) from t"`,
	},
}

// databaseTree is a guest with both databases.
func databaseTree(t *testing.T) *tree {
	t.Helper()
	need(t, "sqlite3", "setpriv")
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		need(t, "a PostgreSQL server (package postgresql)")
	}
	slices.Sort(found)
	bin := filepath.Dir(found[len(found)-1])
	dir := filepath.Dir(bin)
	r := newTree(t)
	r.program("sqlite3", "setpriv", "mkfs.ext4", "e2fsck")
	for _, p := range []string{"postgres", "initdb", "pg_ctl", "psql"} {
		r.copy(filepath.Join(bin, p))
		r.libraries(filepath.Join(bin, p))
		r.link(filepath.Join(bin, p), "usr/bin/"+p)
	}
	for _, l := range []string{"plpgsql.so", "dict_snowball.so", "amcheck.so"} {
		r.copy(filepath.Join(dir, "lib", l))
	}
	r.copy("/usr/share/postgresql/"+filepath.Base(dir), "/usr/share/zoneinfo/UTC")
	r.file("etc/passwd", "root:x:0:0::/root:/bin/sh\npostgres:x:100:100::/tmp:/bin/sh\n", 0o644)
	r.file("etc/group", "root:x:0:\npostgres:x:100:\n", 0o644)
	return r
}

// createDatabases makes the file system and the databases.
func createDatabases(g *guest) {
	g.run("mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && mkdir /mnt/sqlite /mnt/pg && chown 100:100 /mnt/pg")
	g.run(sqlite + ` "pragma journal_mode=wal; pragma synchronous=full; create table t(id integer primary key, body text)"`)
	g.run(postgres + "initdb -N -k -U postgres -A trust --locale=C -E UTF8 -D /mnt/pg/data")
	g.run(`printf "listen_addresses=''\nunix_socket_directories='/tmp'\nfsync=on\nsynchronous_commit=on\nshared_buffers=16MB\nmax_connections=10\njit=off\nautovacuum=on\n" >>/mnt/pg/data/postgresql.conf`)
	g.run(pgctl + "start || { cat /tmp/pg.log; false; }")
	g.run(psql + ` -c "create extension amcheck" -c "create table t(id integer primary key, body text)"`)
	g.run("sync")
}

// databaseRounds is how many times something is killed: a few, or as many as the variable says.
func databaseRounds(t *testing.T) int {
	s := os.Getenv("HOLDFAST_DATABASE_ROUNDS")
	if s == "" {
		return 4
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("HOLDFAST_DATABASE_ROUNDS: %v", err)
	}
	return n
}

// TestDatabasesSurviveKill9 kills the target and QEMU alternately under two databases that are written to. The target comes
// back after some seconds and the guest goes on; QEMU boots anew, and the databases recover from what the volume has: all
// rows that were ever acknowledged must be there, none damaged.
func TestDatabasesSurviveKill9(t *testing.T) {
	r := databaseTree(t)
	m := machine{memoryMiB: 512, kernel: r.kernel(), initrd: r.initrd()}
	s := serve(t, "512MiB")
	m.disks = []string{iscsiDisk(s, ",file.header-digest=crc32c")}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	acked := make([]int, len(databases))
	g := boot(t, m)
	createDatabases(g)
	for round := range databaseRounds(t) {
		if round%2 == 0 { // writers are started for this round and the next
			for i := range databases {
				g.shells[i].send(databases[i].write(acked[i] + 1))
			}
		}
		before := slices.Clone(acked)
		for i := range databases {
			collect(t, g, i, acked, 5+random.IntN(60))
		}
		if round%2 == 0 {
			s.running.kill()
			s.start()
			for i := range databases {
				collect(t, g, i, acked, 5)
			}
		} else {
			g.kill()
			for i := range databases {
				drain(g, i, acked)
			}
			g = boot(t, m)
			acked = recoverDatabases(t, g, acked)
		}
		t.Logf("round %d: acknowledged %v, before %v; stops %d", round+1, acked, before, g.monitor.stops())
	}
}

// collect takes n acknowledgements of a writer.
func collect(t *testing.T, g *guest, i int, acked []int, n int) {
	t.Helper()
	collectFrom(t, g, databases[i].name, i, acked, n)
}

func collectFrom(t *testing.T, g *guest, name string, i int, acked []int, n int) {
	t.Helper()
	for range n {
		line := g.shells[i].until("", nil)
		if _, err := fmt.Sscanf(line, "ACK %d", &acked[i]); err != nil {
			t.Fatalf("%s's writer printed %q\n%s", name, line, g.console())
		}
	}
}

// drain takes what the guest had acknowledged before it was killed.
func drain(g *guest, i int, acked []int) {
	for line, ok := g.shells[i].next(); ok; line, ok = g.shells[i].next() {
		var n int
		_, _ = fmt.Sscanf(line, "ACK %d", &n)
		acked[i] = max(acked[i], n) // the last line may be cut, which makes the number smaller
	}
}

// recoverDatabases mounts, lets the databases recover, and holds what they have against what was acknowledged. It returns how
// many rows each has.
func recoverDatabases(t *testing.T, g *guest, acked []int) []int {
	t.Helper()
	g.run("mount /dev/vda /mnt")
	g.run(pgctl + "start || { cat /tmp/pg.log; false; }")
	has := make([]int, len(databases))
	for i, d := range databases {
		lines := strings.Fields(g.run(d.check))
		last := lines[len(lines)-1]
		var count, least, greatest, damaged int
		if _, err := fmt.Sscanf(last, "%d|%d|%d|%d", &count, &least, &greatest, &damaged); err != nil || !slices.Contains(lines, "ok") {
			t.Fatalf("%s is damaged: %q", d.name, lines)
		}
		// One more than was acknowledged may be there: its acknowledgement was under way.
		if least != 1 || greatest != count || damaged != 0 || count < acked[i] {
			t.Fatalf("%s has %d rows from %d to %d, %d damaged; %d were acknowledged", d.name, count, least, greatest, damaged, acked[i])
		}
		has[i] = count
	}
	g.healthy()
	return has
}
