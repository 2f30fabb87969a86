"""The bundled plugins, one file each; loaded on first use as ``cluster.NAME``."""
