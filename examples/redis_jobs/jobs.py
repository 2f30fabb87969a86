"""The job: takes numbers from a Redis list, squares them, and writes each result exactly once.

A number is *moved* to a list of this worker's own; result and removal are one transaction. So whatever kills a worker
in between, the number is still somewhere, and `recover` gives it to another one.
"""

import os
import time

import psutil
import redis

QUEUE = "squares:waiting"
DOING = "squares:doing:"
DONE = "squares:done"

URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")


def consume(worker):
    """Called once in each worker; connects here, after the fork, so that no two processes share a connection."""
    queue = redis.Redis.from_url(URL)
    mine = f"{DOING}{os.getpid()}"
    worker.on("close", lambda: None)  # somebody cares: the loop below ends by itself, and is not interrupted
    recover(queue)
    while not worker.closing:
        number = queue.blmove(QUEUE, mine, timeout=1)
        if number is not None:
            result = square(int(number))
            with queue.pipeline(transaction=True) as both:
                both.rpush(DONE, f"{int(number)}:{result}")
                both.lrem(mine, 1, number)
                both.execute()


def square(number):
    time.sleep(0.005)  # patched: waits without blocking; here would be something that takes time
    return number * number


def recover(queue):
    """Put back what workers that are gone were doing."""
    for name in queue.scan_iter(f"{DOING}*"):
        if not psutil.pid_exists(int(name.rpartition(b":")[2])):
            while queue.lmove(name, QUEUE):
                pass
