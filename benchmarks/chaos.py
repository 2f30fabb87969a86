"""Torments a cluster in random order under strict clients, and tells whose requests failed.

    python -m benchmarks.chaos --seconds 1800 --seed 7

What it does and what counts as a finding is told in `README.md` beside this file. The exit code is 0 without findings.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: the directory above has to be importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import processes, strict
from benchmarks.client import Client, Connection

CONNECTIONS = 16
WORKERS = 4
#: seconds until the cluster has to be as it should be again, after all acts
CALM = 60.0
#: seconds within which the clients of a killed worker have noticed
NOTICED = 10.0
#: bytes of the file system that is filled up
DISK = 512 * 1024

SERVER = """
import os
from cluster import cluster, debug, logger, pidfiles
from cluster.events import CATALOGUE

m = cluster("app:app").set(workers={workers}, restart_threshold=0, restart_timeout=6, startup_timeout=6, timeout=20,
                           probation={probation}, signals={{"SIGWINCH": "reload"}}, access_log="access.log")
m.use(debug()).use(logger("disk/logs")).use(pidfiles("disk/pids"))
events = os.open("events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(*words):
    os.write(events, (" ".join(map(str, (os.getpid(), *words))) + "\\n").encode())

for event in CATALOGUE.values():
    if event.where != "worker":
        m.on(event.name, lambda *args, name=event.name.replace(" ", "_"): note(name, *map(repr, args)))
m.on("reopen logs", lambda: note("STATUS", m.status()["target"], sum(w.ready for w in m.workers), len(m.workers)))
m.on("listening", lambda: note("ADDRESS", *m.addresses))
m.listen({port}, "127.0.0.1")
"""

APP = """
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
BROKEN = {
    "a syntax error": "def (:\n",
    "an import error": "import nothing_of_that_name\n",
    "a hanging import": "import time\ntime.sleep(600)\n",
    "an import that kills": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
}


class Witness(Client):
    """A strict client that tells apart the failures of connections whose worker was killed."""

    def __init__(self, chaos: Chaos, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._chaos = chaos

    def _fail(self, connection: Connection, kind: str, detail: str, keep: bool = False) -> None:
        port = 0
        with contextlib.suppress(OSError, AttributeError):
            port = connection.socket.getsockname()[1]  # type: ignore[union-attr]
        self._chaos.failed(port, kind, detail)
        super()._fail(connection, kind, detail, keep)


class Chaos:
    """One run."""

    def __init__(self, directory: Path, seed: int, probation: float, quiet: bool) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.begun = time.monotonic()
        #: local ports of clients whose connection was a killed worker's, with the time: ports are used again
        self.doomed: dict[int, float] = {}
        self.expected: Counter[str] = Counter()
        self.findings: list[str] = []
        self.acts: Counter[str] = Counter()
        self.recent: deque[str] = deque(maxlen=6)
        self.report: Any = None
        self.port = 0
        self.session = 0
        self._probation = probation
        self._quiet = quiet
        self._stop = threading.Event()
        self._reading = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._small_disk = False

    # -- what there is

    def say(self, text: str) -> None:
        """A line with the time."""
        if not self._quiet:
            print(f"{time.monotonic() - self.begun:8.2f}  {text}", flush=True)

    def finding(self, text: str) -> None:
        """Something that should not have happened."""
        line = f"{time.monotonic() - self.begun:.2f} s: {text}; before: {'; '.join(self.recent)}"
        self.findings.append(line)
        print("FINDING", line, flush=True)

    def failed(self, port: int, kind: str, detail: str) -> None:
        """A request failed on a connection from local *port*."""
        killed = self.doomed.pop(port, None)
        if killed is not None and time.monotonic() - killed < NOTICED and kind in ("closed", "cut", "reset"):
            self.expected[kind] += 1
        else:
            self.finding(f"a request failed: {kind} ({detail}), client port {port}")

    def events(self, name: str) -> list[list[str]]:
        """All events of a name so far: pid and arguments."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "events").read_text().splitlines()
            return [[words[0], *words[2:]] for line in lines if (words := line.split())[1:2] == [name]]
        return []

    def family(self) -> list[int]:
        """Living processes of the cluster's session."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
                if processes.session(pid) == self.session and processes.alive(pid)]

    def parent(self, pid: int) -> int:
        """The parent of a process; 0 when it has gone."""
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def masters(self) -> list[int]:
        """Living masters, the oldest first."""
        family = self.family()
        started = {int(words[0]) for words in self.events("start")}
        return sorted((pid for pid in family if pid in started), key=lambda pid: (self.age(pid), -pid), reverse=True)

    def age(self, pid: int) -> int:
        """Clock ticks since it was started."""
        try:
            return -int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def master(self) -> int:
        """The one that serves, or will."""
        if not self.wait(self.masters, 10):  # one whose old master was killed may be on its way
            raise RuntimeError("no master is left")
        return (self.masters() or [0])[-1]

    def workers(self) -> list[int]:
        """Living workers of any master."""
        masters = set(self.masters())
        return [pid for pid in self.family() if pid not in masters and self.parent(pid) in masters]

    def wait(self, fact: Callable[[], Any], seconds: float) -> bool:
        """Look until it is so; False when it is not within so many seconds."""
        end = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    @staticmethod
    def send(pid: int, number: int) -> None:
        """A signal to a process that may have gone; 0: to nobody."""
        with contextlib.suppress(ProcessLookupError):
            if pid:
                os.kill(pid, number)

    # -- the load

    def start(self) -> None:
        """Start the cluster, its readers and the clients."""
        (self.directory / "app.py").write_text(APP)
        disk = self.directory / "disk"
        disk.mkdir()
        if os.geteuid() == 0:
            self._small_disk = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(disk)], check=False, capture_output=True
            ).returncode == 0
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1",
                       "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        environment.pop("PWD", None)
        script = self.directory / "server.py"
        script.write_text(SERVER.format(workers=WORKERS, probation=self._probation, port=0))
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self._process = subprocess.Popen([sys.executable, str(script)], cwd=self.directory, env=environment,
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer,
                                         start_new_session=True)
        os.close(writer)
        self.session = self._process.pid
        self._reading.set()
        threading.Thread(target=self._read, args=(reader,), daemon=True).start()
        if not self.wait(lambda: self.events("ready"), 30):
            raise RuntimeError("the cluster has not started")
        self.port = int(self.events("ADDRESS")[0][1].rpartition(":")[2])
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        with open(self.directory / "stderr", "wb", buffering=0) as log:
            while data := os.read(reader, 4096):
                log.write(data)
                self._reading.wait()

    def _load(self) -> None:
        original = strict.Client
        strict.Client = lambda *args, **options: Witness(self, *args, **options)  # type: ignore[misc, assignment]
        try:
            self.report = strict.run(("127.0.0.1", self.port), CONNECTIONS, 10 * 3600, 0.002, timeout=30.0,
                                     stop=self._stop)
        finally:
            strict.Client = original  # type: ignore[misc]

    # -- acts

    def clients_of(self, pid: int) -> set[int]:
        """Local ports of the clients that a process serves."""
        inodes = set()
        with contextlib.suppress(OSError):
            for entry in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{entry}")
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and int(words[1].split(":")[1], 16) == self.port:
                found.add(int(words[2].split(":")[1], 16))
        return found

    def kill_worker(self) -> None:
        """kill -9, after it was stopped: so it is known whose connections it had."""
        found = self.workers()
        if len(found) < 2:
            return
        pid = self.random.choice(found)
        self.send(pid, signal.SIGSTOP)
        self.wait(lambda: processes.state(pid) in ("T", "", "Z"), 2)
        self.doomed.update(dict.fromkeys(self.clients_of(pid), time.monotonic()))
        self.send(pid, signal.SIGKILL)

    def stop_worker(self) -> None:
        """SIGSTOP and SIGCONT."""
        pid = self.random.choice(self.workers() or [0])
        if pid:
            self.send(pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(0, 1.0))
            self.send(pid, signal.SIGCONT)

    def stop_master(self) -> None:
        """The same with a master, perhaps in the middle of a handshake."""
        if self.random.random() < 0.5:
            self.send(self.master(), signal.SIGHUP)
            time.sleep(self.random.uniform(0, 0.6))
        pid = self.random.choice(self.masters() or [self.master()])
        self.send(pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(0, 2.0))
        self.send(pid, signal.SIGCONT)

    def restart(self) -> None:
        """HUP, once or twice."""
        for _ in range(self.random.choice((1, 1, 2))):
            self.send(self.master(), signal.SIGHUP)

    def reload(self) -> None:
        """The command, by a signal."""
        self.send(self.master(), signal.SIGWINCH)

    def resize(self) -> None:
        """TTIN and TTOU, so that two to seven workers are wanted."""
        for number in self.random.choice(((signal.SIGTTIN,), (signal.SIGTTOU, signal.SIGTTIN),
                                          (signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTOU))):
            self.send(self.master(), number)
            time.sleep(0.05)

    def kill_master(self) -> None:
        """kill -9 (or a crash) of one of the two masters, somewhere in a handshake."""
        self.settle()
        old = self.master()
        children = set(self.family())
        self.send(old, signal.SIGHUP)
        if not self.wait(lambda: [p for p in self.family() if p not in children and self.parent(p) == old], 10):
            return
        new = next((p for p in self.family() if p not in children and self.parent(p) == old), 0)
        time.sleep(self.random.uniform(0, self._probation + 0.4))
        victim = self.random.choice((old, new))
        if not victim or not processes.alive(old) or not processes.alive(new):
            return
        self.say(f"  {'old' if victim == old else 'new'} master {victim}")
        self.send(victim, self.random.choice((signal.SIGKILL, signal.SIGSEGV)))

    def broken_code(self) -> None:
        """Restart or reload with code that does not work; perhaps a worker dies meanwhile; then it is mended."""
        self.settle()
        name = self.random.choice(sorted(BROKEN))
        self.say(f"  {name}")
        (self.directory / "app.py").write_text(BROKEN[name])
        number, failed, done = self.random.choice((
            (signal.SIGHUP, "restart_failed", "restart"), (signal.SIGWINCH, "reload_failed", "reloaded")))
        before = len(self.events(failed))
        for _ in range(3):  # one that was under way already may have read the code before
            succeeded = len(self.events(done))
            master = self.master()
            self.say(f"  {signal.Signals(number).name} to {master}")
            self.send(master, number)
            self.wait(lambda: len(self.events(failed)) > before or len(self.events(done)) > succeeded, 40)  # noqa: B023
            if len(self.events(done)) == succeeded:
                break
            self.settle()
        if len(self.events(failed)) == before:
            self.finding(f"{name} was not found out")
        if self.random.random() < 0.5:
            self.kill_worker()
            time.sleep(self.random.uniform(0, 3))
        (self.directory / "app.py").write_text(APP)

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        filler = self.directory / "disk" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink(missing_ok=True)
            for log in (self.directory / "disk" / "logs").glob("*"):
                os.truncate(log, 0)

    def full_disk(self) -> None:
        """Nothing can be written where logs and pid files are, while something else happens."""
        if not self._small_disk:
            return
        with self._full_disk():
            self.random.choice((self.restart, self.reload, self.kill_worker, self.resize))()
            time.sleep(self.random.uniform(0.5, 3))

    def blocked_stderr(self) -> None:
        """Nobody reads the master's stderr, while something else happens."""
        self._reading.clear()
        try:
            for _ in range(3):
                self.random.choice((self.restart, self.reload, self.kill_worker, self.resize))()
                time.sleep(self.random.uniform(0.2, 1.5))
        finally:
            self._reading.set()

    # -- the run

    def settle(self) -> None:
        """Wait until there is one master, and as many ready workers as it wants."""
        last = ""

        def calm() -> bool:
            nonlocal last
            masters = self.masters()
            if len(masters) != 1:
                last = f"{len(masters)} masters: {masters}"
                return False
            ended = len(self.events("restart")) + len(self.events("restart_failed"))
            if len(self.events("restarting")) > ended:
                last = "a restart is under way"
                return False
            before = len(self.events("STATUS"))
            self.send(masters[0], signal.SIGUSR1)
            if not self.wait(lambda: len(self.events("STATUS")) > before, 1):
                last = f"master {masters[0]} does not answer"
                return False
            target, ready, there = map(int, self.events("STATUS")[-1][1:])
            last = f"{ready} ready of {there} workers, {target} wanted"
            if ready == there == target and target < 2:
                self.send(masters[0], signal.SIGTTIN)
                return False
            return ready == there == target

        def calm_for_a_while() -> bool:
            if not calm():
                return False
            time.sleep(0.4)  # what was asked for a moment ago has begun by then
            return calm()

        if not self.wait(calm_for_a_while, CALM):
            self.finding(f"not calm after {CALM:g} s: {last}")

    def run(self, seconds: float) -> None:
        """Act until the time is over."""
        acts: list[tuple[str, Callable[[], None]]] = [
            ("restart", self.restart), ("reload", self.reload), ("resize", self.resize),
            ("kill -9 of a worker", self.kill_worker), ("a worker stopped", self.stop_worker),
            ("a master stopped", self.stop_master), ("kill -9 of a master", self.kill_master),
            ("broken code", self.broken_code), ("full disk", self.full_disk), ("blocked stderr", self.blocked_stderr),
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.findings) < 50:
            name, act = self.random.choice(acts)
            self.acts[name] += 1
            self.recent.append(f"{time.monotonic() - self.begun:.2f} {name}")
            self.say(name)
            try:
                act()
            except RuntimeError as error:
                self.finding(str(error))
                return
            time.sleep(self.random.choice((0.0, 0.1, 0.5, 1.5)))
            if self.random.random() < 0.2:
                self.settle()
        self.settle()

    def end(self) -> int:
        """Stop the clients, close the cluster, tell what happened. Returns the exit code."""
        self._stop.set()
        self._thread.join(60)
        self._reading.set()
        for pid in self.masters():
            self.send(pid, signal.SIGQUIT)
        if not self.wait(lambda: not self.family(), 30):
            self.finding(f"processes left: {self.family()}")
            for pid in self.family():
                self.send(pid, signal.SIGKILL)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        disk = self.directory / "disk"
        # the socket for commands of a master that was killed stays until the next one has taken over
        left = [path.name for path in (disk / "pids").glob("*") if path.suffix not in (".pid", ".sock")]
        if left:
            self.finding(f"files left beside the pid files: {left}")
        if self._small_disk:
            subprocess.run(["umount", "-l", str(disk)], check=False)
        print("\nacts")
        for name, count in sorted(self.acts.items()):
            print(f"  {name:24} {count}")
        for name in ("restart", "reloaded", "restart_failed", "reload_failed", "resumed", "worker_killed"):
            print(f"  event {name:18} {len(self.events(name))}")
        report = self.report
        if report is not None:
            print(f"requests {report.requests}, answered {report.answered}, failed {report.failed}, "
                  f"refused {report.failures['refused']} ({report.seconds:.0f} s; "
                  f"p99 {report.latency(0.99) * 1000:.1f} ms, longest {report.latency(1.0) * 1000:.0f} ms)")
            causes = ", ".join(f"{count} {kind}" for kind, count in report.failures.items()) or "none"
            print(f"failures by cause: {causes}")
        print(f"of these on connections of killed workers: {sum(self.expected.values())} {dict(self.expected)}")
        print(f"findings {len(self.findings)}")
        for line in self.findings:
            print("  " + line)
        return 1 if self.findings or report is None or not report.answered else 0


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="for the same acts again; default: any")
    parser.add_argument("--probation", type=float, default=2.0, metavar="S", help="the setting of that name")
    parser.add_argument("--keep", action="store_true", help="keep the directory with events, logs and stderr")
    parser.add_argument("--quiet", action="store_true", help="findings and the table only")
    options = parser.parse_args(arguments)
    if os.geteuid() == 0 and "CHAOS_UNSHARED" not in os.environ and shutil.which("unshare"):
        os.environ["CHAOS_UNSHARED"] = "1"  # what is mounted here is nobody else's concern
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "benchmarks.chaos", *sys.argv[1:]])
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}, in {directory}", flush=True)
    chaos = Chaos(directory, seed, options.probation, options.quiet)
    code = 1
    try:
        chaos.start()
        chaos.run(options.seconds)
    finally:
        code = chaos.end()
        if options.keep or code:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
