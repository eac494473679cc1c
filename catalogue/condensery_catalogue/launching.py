"""``--launch N``: one run in several processes, started by torchrun."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from condensery.errors import UsageError


def launched() -> bool:
    """Tell whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def without_launch(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of this command without ``--launch`` and its number."""
    found = [a for a in arguments if not a.startswith("--launch=")]
    if "--launch" in found:
        place = found.index("--launch")
        del found[place : place + 2]
    return found


def launch(count: int, folder: Path) -> None:
    """Run this very command again in several processes of this machine, and wait for them.

    :param folder: for all of them, whether the user named one or not.
    :raises KeyboardInterrupt: if it was stopped.
    :raises UsageError: if one of them fails; it has said why.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.agent.server.api import logger as agent
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger(agent.name.partition(".agent")[0]).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))

    arguments = without_launch(sys.argv[1:])
    if "--out" not in arguments and not any(a.startswith("--out=") for a in arguments):
        arguments += ["--out", str(folder)]
    command = ["--standalone", "--nproc-per-node", str(count), "-m", "condensery_catalogue.cli", *arguments]
    try:
        torchrun.run(torchrun.parse_args(command))  # type: ignore[no-untyped-call]
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise UsageError(f"process {rank} of {count} ended with {failure.exitcode}, and the others with it") from None
