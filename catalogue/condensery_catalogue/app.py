"""What all commands have in common: the options that each of them takes, a sign of life, what completes a key."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, get_args

import typer

from condensery_catalogue.listing import FACETS

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE_OR_MODULE",
        help="Take this plugin too: a Python file, a package's folder, or a module; may be repeated.",
    ),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say which plugins, data and kept nets are used.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error arose, all of it.")]
COMMON = {"plugin": Plugins, "verbose": Verbose, "traceback": Traceback}


class App(typer.Typer):
    """An app whose commands all take ``--plugin``, ``--verbose`` and ``--traceback``."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        """Return the decorator that makes a function a command."""
        register = super().command(name, **settings)
        return lambda command: register(_with_options(_prepared(command), COMMON))


@contextmanager
def waited_for(what: str) -> Iterator[None]:
    """Show a word on a terminal while something takes seconds; it goes again, so that an error stays one line."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{what}...", end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(" " * len(f"{what}..."), end="\r", file=sys.stderr, flush=True)


def _prepared(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that first does what its common options say."""

    @functools.wraps(command)
    def run(
        plugin: Sequence[str] | None = None, verbose: bool = False, traceback: bool = False, **given: Any
    ) -> None:  # the last one is for main()
        if verbose:
            import logging

            logging.basicConfig(format="%(message)s")
            for room in ("condensery", "condensery_catalogue"):
                logging.getLogger(room).setLevel(logging.INFO)
        if plugin:
            from condensery_catalogue.listing import take_plugins

            take_plugins(plugin)
        command(**given)

    return run


def _with_options(command: Callable[..., None], options: Mapping[str, Any]) -> Callable[..., None]:
    """Give a command more options, which it gets by name.

    :param options: annotations by name; those that aren't given are ``None``, flags ``False``.
    """
    own = inspect.signature(command, eval_str=True)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if get_args(annotation)[0] is bool else None,
            annotation=annotation,
        )
        for name, annotation in options.items()
    ]
    command.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    command.__annotations__ |= options
    return command


def with_facets(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each facet."""
    facets = {
        name.replace("-", "_"): Annotated[str | None, typer.Option(f"--{name}", help=words)]
        for name, words in FACETS.items()
    }
    return _with_options(command, facets)


def keys_of(*kinds: str) -> Callable[[str], list[str]]:
    """Return what completes a key of some kinds in a shell."""

    def complete(incomplete: str) -> list[str]:
        from condensery.contract import Registry

        registry = Registry.open()
        return sorted({key for kind in kinds for key in registry.keys(kind) if key.startswith(incomplete)})

    return complete
