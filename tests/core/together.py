"""Processes that play one run together, forked from one that has imported everything already."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist


def together(play: Callable[[], object], count: int = 2, *, killed: bool = False) -> None:
    """Run something in several processes at once, joined by gloo.

    :param killed: they end by a kill.
    """
    with tempfile.TemporaryDirectory() as place:
        children = [_forked(play, rank, count, Path(place) / "store") for rank in range(count)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [-9 if killed else 0] * count


def _forked(play: Callable[[], object], rank: int, count: int, store: Path) -> int:
    child = os.fork()
    if child:
        return child

    status = 1
    try:
        os.environ["WORLD_SIZE"] = str(count)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        play()
        status = 0
    except BaseException:  # noqa: BLE001  Told by the status, whatever it was.
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
