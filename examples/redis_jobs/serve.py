"""Workers that consume jobs from a Redis queue; no socket. With the program: cluster serve jobs:consume --job

    redis-server &
    python examples/redis_jobs/serve.py
    python examples/redis_jobs/enqueue.py 1000
"""

from cluster import cluster, debug

cluster("jobs:consume").set("workers", 2).use(debug()).start()
