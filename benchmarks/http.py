# ruff: noqa: E501
"""Compare HTTP servers on one core, with the load on another.

    python benchmarks/http.py [--rounds 5] [--seconds 3] [--servers ours,granian,nginx] [--loads bare,browser]

Starts every server that is installed, one process each, pinned to the first core; runs wrk pinned to the second against
them in turns, so that whatever else the machine does meets all of them; prints the median of the rounds and the ratio to
ours. A ratio is the median of the ratios of each round. Beside it stands the processor time that the server (all its
processes and threads, kernel included) took per request. A run during which other programs used much of the two cores
is repeated a few times, so that a shared machine can be used; `--quiet` says how much is too much. Installs nothing: what is missing is listed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: a folder of its own: beside this file, `import http` would find this file
SERVED = HERE / "served"

BROWSER = {
    "Connection": "keep-alive",
    "Cache-Control": "max-age=0",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-US,en;q=0.9",
    "Cookie": "session=0123456789abcdef; theme=dark; _ga=GA1.1.1234567890.1234567890",
}

#: name: path, connections, headers, body size
LOADS = {
    "bare": ("/", 64, {}, 0),
    "browser": ("/", 64, BROWSER, 0),
    "json": ("/json", 64, {}, 0),
    "post": ("/post", 64, {}, 1024),
    "stream": ("/stream", 64, {}, 0),
    "sleep": ("/sleep", 256, {}, 0),
    "bare-1000": ("/", 1000, {}, 0),
    "bare-5000": ("/", 5000, {}, 0),
}

GUNICORN = [
    sys.executable,
    "-m",
    "gunicorn",
    "-w",
    "1",
    "--log-level",
    "error",
    "--backlog",
    "4096",
    "--keep-alive",
    "60",
]
NGINX = """
worker_processes 1; daemon off; pid {dir}/pid; error_log /dev/null; worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
server {{ listen 127.0.0.1:{port} backlog=4096; default_type text/plain; return 200 "Hello, World!"; }} }}
"""


def servers() -> dict[str, tuple[str, list[str], set[str]]]:
    """Name: (module or program that must be there, command with {port}, loads it takes part in)."""
    everything = set(LOADS)
    own = str(SERVED / "applications.py")
    return {
        "ours": ("gevent", [sys.executable, own, "ours", "{port}"], everything),
        "ours-in-a-cluster": ("gevent", [sys.executable, "-m", "cluster", "serve", "applications:app", "--chdir", str(SERVED), "--workers", "1",
                                         "--bind", "127.0.0.1:{port}", "--env", "production", "--set", "backlog=4096"], everything),
        "gunicorn-gevent": ("gunicorn", [*GUNICORN, "-k", "gevent", "--worker-connections", "10000", "-b", "127.0.0.1:{port}", "applications:app"], everything),
        "gunicorn-gthread": ("gunicorn", [*GUNICORN, "-k", "gthread", "--threads", "64", "--worker-connections", "10000", "-b", "127.0.0.1:{port}", "applications:app"], everything),
        "gunicorn-sync": ("gunicorn", [*GUNICORN, "-b", "127.0.0.1:{port}", "applications:app"], everything - {"sleep", "bare-5000"}),
        "granian": ("granian", [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--port", "{port}", "--workers", "1", "--backlog", "4096",
                                "--blocking-threads", "1", "--log-level", "error", "applications:app"], everything - {"sleep"}),
        "granian-threads": ("granian", [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--port", "{port}", "--workers", "1", "--backlog", "4096",
                                        "--blocking-threads", "256", "--log-level", "error", "applications:app"], {"sleep"}),
        "uvicorn": ("uvicorn", [sys.executable, "-m", "uvicorn", "--interface", "wsgi", "--port", "{port}", "--log-level", "error", "--no-access-log",
                                "--backlog", "4096", "applications:app"], everything),
        "waitress": ("waitress", [sys.executable, "-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "64", "--connection-limit", "10000",
                                  "--backlog", "4096", "applications:app"], everything),
        "pywsgi": ("gevent", [sys.executable, own, "pywsgi", "{port}"], everything),
        "bjoern": ("bjoern", [sys.executable, own, "bjoern", "{port}"], everything - {"sleep"}),
        "nginx": ("nginx", ["nginx", "-c", "{conf}"], {"bare", "browser", "bare-1000", "bare-5000"}),
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Running:
    """A server that has been started, pinned to a core."""

    def __init__(self, name: str, command: list[str], core: str, scratch: str) -> None:
        self.name = name
        self.port = free_port()
        conf = Path(scratch) / f"{name}.conf"
        conf.write_text(NGINX.format(dir=scratch, port=self.port))
        command = [part.format(port=self.port, conf=conf) for part in command]
        environ = {**os.environ, "PYTHONPATH": f"{SERVED}:{HERE.parent}"}
        if name in ("ours", "ours-in-a-cluster", "gunicorn-gevent", "pywsgi"):
            environ["COOPERATIVE"] = "1"
        self.process = subprocess.Popen(
            ["taskset", "-c", core, *command], cwd=scratch, env=environ, stderr=subprocess.DEVNULL
        )

    def ready(self) -> bool:
        end = time.monotonic() + 15
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.05)
            else:
                return True
        return False

    def cpu(self) -> float:
        """Seconds of processor time so far, of all processes and threads."""
        total = 0
        todo = [self.process.pid]
        while todo:
            for task in Path(f"/proc/{todo.pop()}/task").glob("*"):
                total += int((task / "schedstat").read_text().split()[0])
                todo += [int(child) for child in (task / "children").read_text().split()]
        return total / 1e9

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def busy(cores: str) -> float:
    """Seconds that these cores have worked so far."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] in [f"cpu{core}" for core in cores.split(",")]:
            user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def spent(running: list[Running]) -> float:
    """Processor time of the servers and of the load so far, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(server.cpu() for server in running) + usage.ru_utime + usage.ru_stime


def load(server: Running, name: str, seconds: float, core: str, scratch: str) -> tuple[float, float, int]:
    """Requests per second, microseconds of processor time per request, and how many failed."""
    path, connections, headers, size = LOADS[name]
    script = Path(scratch) / f"{name}.lua"
    lines = [f"wrk.headers[{json.dumps(key)}] = {json.dumps(value)}" for key, value in headers.items()]
    if size:
        lines += ['wrk.method = "POST"', f'wrk.body = string.rep("x", {size})']
    script.write_text("\n".join(lines) + "\n")
    command = [
        "taskset",
        "-c",
        core,
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{server.port}{path}",
    ]
    before = server.cpu()
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    spent = server.cpu() - before
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+)", output)
    failed = (int(wrong[1]) if wrong else 0) + (sum(map(int, broken.groups())) if broken else 0)
    total = re.search(r"(\d+) requests in", output)
    return (float(rate[1]) if rate else 0.0), (spent / int(total[1]) * 1e6 if total and int(total[1]) else 0.0), failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--servers", help="names, with commas; all by default")
    parser.add_argument("--loads", help="names, with commas; all by default")
    parser.add_argument("--cores", default="0,1", help="the server's core and the load's")
    parser.add_argument("--quiet", type=float, default=0.15, help="seconds per second that other programs may use")
    parser.add_argument("--patience", type=int, default=8, help="how often to repeat a run that was not quiet")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    server_core, load_core = options.cores.split(",")
    chosen = options.servers.split(",") if options.servers else list(servers())
    loads = options.loads.split(",") if options.loads else list(LOADS)
    for name in (*chosen, *loads):
        if name not in servers() and name not in LOADS:
            parser.error(f"no server or load {name!r}; there are {', '.join([*servers(), *LOADS])}")
    for program in ("wrk", "taskset"):
        if not shutil.which(program):
            sys.exit(f"{program} is needed and not installed")

    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    failures: dict[tuple[str, str], int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        running: list[Running] = []
        try:
            for name in chosen:
                needed, command, _ = servers()[name]
                if not (shutil.which(needed) or importlib.util.find_spec(needed)):
                    print(f"missing: {name} (needs {needed})", file=sys.stderr)
                    continue
                server = Running(name, command, server_core, scratch)
                running.append(server)
                if not server.ready():
                    print(f"missing: {name} (did not start)", file=sys.stderr)
                    running.remove(server)
                    server.stop()
            for name in loads:
                figures[name] = {}
                noise: list[float] = []
                for number in range(options.rounds + 1):
                    for server in running:
                        if name not in servers()[server.name][2]:
                            continue
                        seconds = options.seconds if number else 1
                        best = None
                        for _ in range(options.patience if number else 1):
                            before = busy(options.cores), spent(running), time.monotonic()
                            figure = load(server, name, seconds, load_core, scratch)
                            others = busy(options.cores) - before[0] - (spent(running) - before[1])
                            share = others / (time.monotonic() - before[2])
                            if best is None or share < best[0]:
                                best = (share, figure)
                            if share < options.quiet:
                                break
                        assert best is not None
                        noise.append(best[0])
                        rate, cpu, failed = best[1]
                        if number:  # the first one is to warm up
                            figures[name].setdefault(server.name, []).append((rate, cpu))
                            failures[name, server.name] = failures.get((name, server.name), 0) + failed
                report(name, figures[name], failures)
                print(
                    f"  (other programs used {statistics.median(noise):.2f}, at most {max(noise):.2f}, of the two cores)"
                )
        finally:
            for server in running:
                server.stop()
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def report(name: str, figures: dict[str, list[tuple[float, float]]], failures: dict[tuple[str, str], int]) -> None:
    print(f"\n{name}")
    ours = figures.get("ours", [])
    for server, rounds in sorted(figures.items(), key=lambda item: statistics.median(cpu for _, cpu in item[1])):
        rate, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
        line = f"  {server:18} {rate:10,.0f} requests/s {cpu:8.2f} us each"
        if ours and server != "ours":
            rates = [own[0] / other[0] for own, other in zip(ours, rounds, strict=True) if other[0]]
            times = [other[1] / own[1] for own, other in zip(ours, rounds, strict=True) if own[1]]
            if rates and times:
                line += f"   ours / it: {statistics.median(rates):6.2f} by rate {statistics.median(times):6.2f} by processor time"
        if failures.get((name, server)):
            line += f"   {failures[name, server]} FAILED"
        print(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
