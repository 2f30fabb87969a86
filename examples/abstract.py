"""No server at all: `start()` returns in each worker, and the rest of the script is the worker's job.

The workers count primes, a block of numbers at a time, and report each block to the master, which keeps the sum.

    python examples/abstract.py
"""

import itertools

from cluster import cluster, debug

WORKERS = 2
SIZE = 5000

found = {}


def report(block, count):
    """Runs in the master when a worker calls it. A worker that came back begins anew: no block counts twice."""
    found[block] = count
    whole = next(number for number in itertools.count() if number not in found)
    print(f"{sum(found[number] for number in range(whole))} primes below {whole * SIZE}", flush=True)


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


master = cluster().set("workers", WORKERS).use(debug()).expose("report", report).start()

if master.is_worker:  # the master comes here, too, once the cluster has closed
    block = master.worker.id
    while not master.worker.closing:
        master.call("report", block, sum(map(is_prime, range(block * SIZE, (block + 1) * SIZE))))
        block += WORKERS
