"""A WSGI callable, environments, and plugins written on the spot.

    python examples/environments.py
    CLUSTER_ENV=production python examples/environments.py
"""

import os
import sys

from cluster import cluster, debug


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Stage", stages["here"])])
    return [f"Hello from process {os.getpid()}\n".encode()]


def deaths(master):
    """A plugin: a function of the master. This one tells of workers that died, and of nothing else."""
    master.on("worker killed", lambda worker: print(f"worker {worker.id} died: {worker.ending}", file=sys.stderr))


stages = {}


def stage(master):
    """A plugin for both sides: called in the master by `use`, and in each worker before the application is loaded."""
    stages["here"] = f"{master.environment}, worker {master.worker.id}" if master.is_worker else "master"


stage.enable_in_worker = True

if __name__ == "__main__":
    (cluster(app)
        .set("workers", 2)
        .use(stage)
        .in_("development").use(debug())
        .in_("production").set(workers=3, timeout=30).use(deaths)
        .in_("all").listen(int(os.environ.get("PORT", 3000)), callback=lambda: print("listening", flush=True)))
