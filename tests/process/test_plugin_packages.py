"""K2, issue 3: the example package, installed, works as docs/plugin-authors.md says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cluster

ROOT = Path(cluster.__file__).resolve().parent.parent


def test_the_example_package_as_installed(tmp_path: Path) -> None:
    """Its own tests pass with the package installed, not on the path."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "examples" / "cluster-heartbeat", source)
    target = tmp_path / "installed"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(target), str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CLUSTER_")}
    environment["PYTHONPATH"] = f"{target}{os.pathsep}{ROOT}"
    tests = tmp_path / "tests"
    shutil.copytree(source / "tests", tests)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
