"""How a long run shows itself: a bar on a terminal, plain lines elsewhere; and who else is told how it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from condensery.errors import UsageError, short

if TYPE_CHECKING:
    from condensery.run.stage import Stage


class Observer:
    """Is told how a run goes: extend it, and give it to ``Run(..., observer=...)``.

    Base training counts as a stage, named ``base`` or ``base:<model>``, unless the net comes from the cache. The dry
    run before a run tells nothing. What a method here raises ends the run: a ``KeyboardInterrupt`` is as good as
    Ctrl-C, and a run with ``resume=True`` goes on from there.
    """

    asks_quality = False
    """Whether each epoch is to be measured on the validation split, for the history."""

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        """Look at a stage after each of its epochs, once that is saved; ``stage.epoch`` is still that epoch.

        :param history: an entry for each epoch of the stage so far: ``epoch`` (from 1), ``terms`` (mean losses by
            name), ``quality`` (metrics over the validation split, empty unless the run measures them), ``wall_s``
            (seconds).
        """

    def stage_ended(self, stage: Stage) -> None:
        """Look at a stage that is over, before the next one starts.

        The players are still there. Taps, helpers and temporary transforms are off, and kept transforms have been found
        to hold what they promise. The net is saved afterwards: a run that ends here plays the stage's end again.
        """


class Told(Observer):
    """Tells a function of each epoch, as a tracker of runs wants to know it.

    :param function: gets a dict: ``stage`` (its name), ``epoch`` (from 1), ``steps`` (so far in this stage), ``wall_s``
        (seconds), and each loss and each validation metric by name; nothing is told where there is none.
    """

    def __init__(self, function: Callable[[dict[str, Any]], object] | None = None) -> None:
        if isinstance(function, type) or not (function is None or callable(function)):
            raise UsageError(
                f"observer: give a function of a dict, or a condensery.run.Observer, not {short(function)}"
            )
        self.function = function

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        """Tell what the last epoch came to."""
        if self.function is not None:
            last = history[-1]
            own = {"stage": stage.name, "epoch": last["epoch"], "steps": stage.step, "wall_s": last["wall_s"]}
            self.function({**last["terms"], **last["quality"], **own})


class Progress:
    """Shows stages and epochs. Use as a context.

    On a terminal and in a notebook it draws a rich bar, at first one that says that the work is being prepared; else it
    prints one line an epoch, or for every tenth of many.

    :param quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._preparing: Any = None
        self._task: Any = None
        self._said: set[str] = set()
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if not self.quiet and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._preparing = self._bar.add_task("preparing", total=None, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._prepared()
            self._bar.stop()
            self._bar = None

    def _prepared(self) -> None:
        """Take the first bar away, once there is something to count, or an error to be read."""
        if self._preparing is not None:
            self._bar.remove_task(self._preparing)
            self._preparing = None

    def start(self, title: str, steps: int) -> None:
        """Begin a stage of some steps."""
        if self._bar is not None:
            self._prepared()
            self._task = self._bar.add_task(title, total=max(steps, 1), note="")
        else:
            self.line(f"{title}: {steps} steps")

    def advance(self, steps: int = 1) -> None:
        """Count steps."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)

    def epoch(self, title: str, epoch: int, epochs: int, note: str) -> None:
        """Say how an epoch ended."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=note)
        elif epochs <= 10 or epoch * 10 // epochs > (epoch - 1) * 10 // epochs:
            self.line(f"{title}: epoch {epoch}/{epochs}  {note}  ({time.monotonic() - self._started:.0f} s)")

    def once(self, text: str) -> None:
        """Say one thing, and not again."""
        if text not in self._said:
            self._said.add(text)
            self.line(text)

    def line(self, text: str) -> None:
        """Say one thing."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)
