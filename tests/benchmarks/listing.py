"""``make bench``, part four: ``condensery list`` with a hundred cards more, with a cold and a warm cache.

A warm start is the usual one; a cold one follows each change of core's schema of cards. Both are given in seconds of
the wall clock and of the processor, the least of several times: what else runs on the machine only adds to it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import yaml

from condensery import Registry
from condensery_plugins import plugin

CARDS, TIMES = 100, 7
PACKAGE = "hundred_papers"


def write_package(site: Path) -> None:
    """Write an installed package with copies of the built-in cards under other keys."""
    package = site / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"from condensery.contract import Papers\n\nplugin = Papers({PACKAGE!r})\n")

    keys = [key for key, entry in Registry.open().entries["papers"].items() if entry.plugin == "builtin"]
    for number, key in enumerate(islice(cycle(keys), CARDS)):
        card = yaml.load(plugin.card_file(key).read_bytes(), Loader=yaml.CSafeLoader)
        for own in ("class", "layers", "codecs"):
            card.pop(own, None)
        name = card["key"] = f"{key}-{number}"
        file = package / f"{name.replace('-', '_')}.yaml"
        file.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8")

    info = site / f"{PACKAGE}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[condensery]\nhundred = {PACKAGE}:plugin\n")


def list_s(site: Path, cache: Path) -> tuple[float, float]:
    """Return the seconds of one ``condensery list``, of the wall clock and of the processor."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "CONDENSERY_CACHE": str(cache)}
    command = [sys.executable, "-m", "condensery_catalogue.cli", "list"]

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    if done.stderr or done.stdout.count("\n") < CARDS:
        raise SystemExit(f"not all cards are listed: {done.stderr}{done.stdout[-200:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print and store the figures."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        site, cache = Path(folder) / "site", Path(folder) / "cache"
        write_package(site)
        list_s(site, cache)  # Python compiles the package's modules.
        for kind in ("cold", "warm"):
            found = []
            for _ in range(TIMES):
                if kind == "cold":
                    shutil.rmtree(cache)
                found.append(list_s(site, cache))
            wall, processor = map(min, zip(*found, strict=True))
            print(f"list, {CARDS} cards more, {kind} cache: {wall:.3f} s, processor {processor:.3f} s")
            figures |= {f"list_{kind}_s": wall, f"list_{kind}_processor_s": processor}

    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-list.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
