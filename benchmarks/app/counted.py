"""The application under a master, with or without stats(): `python counted.py HOST:PORT [stats]`."""

from __future__ import annotations

import sys

from cluster import cluster, stats

master = cluster("app:app").set("workers", 1)
if sys.argv[2:] == ["stats"]:
    master.use(stats(connections=True, requests=True))
master.listen(sys.argv[1])
