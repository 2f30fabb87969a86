"""Both sides of a worker: `handle` is the worker as the master sees it, `runtime` the worker process itself."""
