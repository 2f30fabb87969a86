"""cluster: a single-process WSGI or TCP server as a resilient, zero-downtime, multi-process service."""

__version__ = "0.1.0"
