"""Commands in an environment in which one more folder of packages is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def command(site: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` with some arguments.

    :param site: the folder; it stands before what the tests themselves were started with.
    """
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "CONDENSERY_CACHE": str(site.with_name("cache"))}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )


def condensery(site: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line of the catalogue."""
    return command(site, "condensery_catalogue.cli", *arguments, cwd=cwd)
