"""Sites on this machine for the comparisons: processes of the product, their groups, links between them, and a client that loads them.

Needs .bin/holdfast, .bin/link and .bin/load, which the tasks build.
"""
import http.client, json, os, pathlib, re, shutil, socket, subprocess, sys, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOLDFAST = str(ROOT / ".bin" / "holdfast")
LINK = str(ROOT / ".bin" / "link")
LOAD = str(ROOT / ".bin" / "load")
ME = "bench/" + pathlib.Path(sys.argv[0]).name
MIB = 1 << 20


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            sys.exit(f"{ME}: {tool} is not installed: run deploy/debian/install-test-tools.sh")
    for tool in (HOLDFAST, LINK, LOAD):
        if not os.access(tool, os.X_OK):
            sys.exit(f"{ME}: {tool} is missing: run it by its task, which builds it")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, probe, seconds=60, every=0.1):
    end = time.monotonic() + seconds
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            sys.exit(f"{ME}: {what} did not come within {seconds} s")
        time.sleep(every)


class Processes:
    """Children that end with the run, whatever ends it."""

    def __init__(self):
        self.all = []

    def start(self, *argv, **kw):
        p = subprocess.Popen(argv, **kw)
        self.all.append(p)
        return p

    def stop(self, *which):
        which = which or tuple(self.all)
        for p in reversed(which):
            p.terminate()
        for p in which:
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self.all = [p for p in self.all if p not in which]


class Group:
    """What a group of Sites is: its home, its target if any (site, mode), its class, and whether the target keeps checkpoints."""

    def __init__(self, home="a", target=None, durability="strict", checkpoints=False):
        self.home, self.target, self.durability, self.checkpoints = home, target, durability, checkpoints

    def config(self, name, volumes, size):
        target = "{site: %s, mode: %s}" % self.target if self.target else ""
        disks = "".join(f"      - {{id: {name}-disk{i}, size: {size}MiB}}\n" for i in range(volumes))
        return (f"  - id: {name}\n    tier: 1\n    home: {self.home}\n    targets: [{target}]\n    durability: {self.durability}\n"
                f"    checkpoints: {{disabled: {str(not self.checkpoints).lower()}}}\n"
                f"    on_target_loss: degrade\n    failover: manual\n    volumes:\n{disks}")


GROUPS = {
    "none": Group(),
    "sync": Group(target=("b", "sync")),
    "shared": Group(target=("c", "sync")),
    "async": Group(target=("b", "async")),
    "async-cached": Group(target=("b", "async"), durability="cached"),
    "async-checkpoints": Group(target=("b", "async"), checkpoints=True),
    "shared-checkpoints": Group(target=("c", "sync"), checkpoints=True),
    "there": Group(home="b"),
}


class Sites:
    """Sites a, b, c and w, and some of GROUPS. a serves, b keeps its copies in memory, c on the disk that a uses, w votes. With a link, a
    and b reach each other through one each way. size is of each volume, in MiB."""

    def __init__(self, procs, dir, memory, groups, link=None, journal="256MiB", volumes=1, size=256):
        self.procs, self.dir, self.groups = procs, dir, groups
        dir.mkdir(parents=True, exist_ok=True)
        where = {"a": dir / "a", "b": memory, "c": dir / "c", "w": dir / "w"}
        ports = {s: free_port() for s in where}
        self.metrics = free_port()
        across = {s: link(ports[s]) for s in "ab"} if link else ports
        self.running = {}
        for s, data in where.items():
            far = {"a": "b", "b": "a"}.get(s)
            sites = "".join(f'  - {{id: {o}, index: {i}, role: {"witness" if o == "w" else "data"}, nats: "nats://127.0.0.1:{across[o] if o == far else ports[o]}"}}\n'
                            for i, o in enumerate(where, 1))
            (dir / f"{s}.yaml").write_text(
                f"site: {s}\ndata_dir: {data}\ntiming: default\nnats: {{listen: 127.0.0.1:{ports[s]}}}\nsites:\n{sites}"
                + f"quorum: {{model: node_majority}}\njournal: {{size: {journal}}}\n"
                + (f"metrics: {{listen: 127.0.0.1:{self.metrics}}}\n" if s == "a" else "")
                + ("" if s == "w" else f"iscsi: {{listen: 127.0.0.1:{free_port()}}}\n" + self.lines(link if far else None))
                + "groups:\n" + "".join(GROUPS[g].config(g, volumes, size) for g in groups))
            self.start(s)
        self.disks = {g: wait_for(f"group {g}", lambda g=g: self.served(g)) for g in groups}
        self.urls = {g: d[0] for g, d in self.disks.items()}

    @staticmethod
    def lines(link):
        """Where a site takes changes past NATS: what comes over the link does so on this way, too."""
        port = free_port()
        return f'replication: {{listen: "127.0.0.1:{port}", address: "127.0.0.1:{link(port) if link else port}"}}\n'

    def start(self, site):
        log = open(self.dir / f"{site}.log", "a")
        self.running[site] = self.procs.start(HOLDFAST, "site", "--config", str(self.dir / f"{site}.yaml"), stdout=log, stderr=subprocess.STDOUT)

    def kill(self, site):
        """The site is lost: no goodbye."""
        p = self.running.pop(site)
        p.kill()
        p.wait()
        self.procs.all.remove(p)

    def copy(self, group):
        """The group's status at its home."""
        got = subprocess.run([HOLDFAST, "group", "show", group, "--config", str(self.dir / "a.yaml"), "--output", "json"], capture_output=True, text=True)
        return (json.loads(got.stdout).get("copies") or {}).get(GROUPS[group].home) or {} if got.returncode == 0 else {}

    def served(self, group):
        """The addresses of a group's disks, once they are served and its targets are in line."""
        copy = self.copy(group)
        for t in copy.get("targets") or []:
            if t["state"] != "streaming" or (t["mode"] == "sync" and not t["in_sync"]):
                return None
        return [d["url"] for d in copy.get("disks") or []]

    def page(self):
        """Site a's metrics."""
        at = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=10)
        try:
            at.request("GET", "/metrics")
            return at.getresponse().read().decode()
        finally:
            at.close()

    def gauge(self, name, page=None, **labels):
        """The value of a gauge of site a, the first that has these labels; None where there is none."""
        for found, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", page or self.page(), re.M):
            have = dict(re.findall(r'(\w+)="([^"]*)"', found))
            if all(have.get(k) == v for k, v in labels.items()):
                return float(value)
        return None

    def state(self, group, state, page=None):
        return self.gauge("holdfast_replication_target_state", page, group=group, state=state) == 1

    def follows(self, group):
        page = self.page()
        return self.state(group, "streaming", page) and self.gauge("holdfast_replication_lag_bytes", page, group=group) == 0

    def settle(self, group):
        """Waits until the group's target has all, and the disks are at rest."""
        if GROUPS[group].target:
            wait_for(f"{group}: the target's last change", lambda: self.follows(group), 180)
        os.sync()

    def pids(self, *sites):
        return [self.running[s].pid for s in sites]


def load(*args):
    """The figures of one run of .bin/load."""
    out = subprocess.run([LOAD, *map(str, args)], capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{ME}: {out.stderr}")
    return json.loads(out.stdout)


def fill(url, size):
    """Writes all of a disk of so many MiB once: first writes into holes are slower."""
    load("--url", url, "--size", MIB, "--depth", 4, "--writes", size)


def link(procs, rtt_ms, bits):
    """Makes links of a round trip and a rate: a function from the port that is at the far end to the port of the near one."""
    def through(port):
        line = procs.start(LINK, "--to", f"127.0.0.1:{port}", "--rtt", f"{rtt_ms}ms", "--bits", str(bits), stdout=subprocess.PIPE, text=True)
        return int(line.stdout.readline().rsplit(":", 1)[1])

    return through


def echo(procs):
    """The port of an echo, for the round trip of a link."""
    p = procs.start(LOAD, "--echo", stdout=subprocess.PIPE, text=True)
    return int(p.stdout.readline().rsplit(":", 1)[1])


class Guest:
    """Writes as a guest's, until end; look, slice and forget give figures, see .bin/load --help."""

    def __init__(self, procs, urls):
        args = [a for u in urls for a in ("--url", u)]
        self.process = procs.start(LOAD, "--guest", *args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{ME}: the writes ended: a guest would have seen an error")
        return json.loads(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)
