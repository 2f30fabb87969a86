"""Puts the numbers below N (default 1000) on the queue.

    python examples/redis_jobs/enqueue.py 1000
"""

import sys

import redis
from jobs import QUEUE, URL

numbers = range(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
redis.Redis.from_url(URL).rpush(QUEUE, *numbers)
print(f"{len(numbers)} jobs queued")
