"""What :func:`condensery.compress` returns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from condensery.files import named_path, write_atomic
from condensery.front.table import as_html, as_text, report_table


@dataclasses.dataclass(eq=False, repr=False)
class Result:
    """A net that was compressed; printed, it is the table of what came out.

    :param net: in eval mode, with the bytes of the artifact; a plain torch module wherever no layer of a plugin's is
        needed.
    :param report: all that was measured, the recipe and the versions too, as plain data.
    :param artifact: the net in one small file, which :meth:`save` copies.
    """

    net: nn.Module
    report: dict[str, Any]
    artifact: Path

    def save(self, path: str | Path) -> Path:
        """Write the artifact, which ``condensery.load(path, into=net)`` reads.

        :raises FileError: if it can't be written.
        :raises UsageError: for what is no name of a file.
        """
        place = named_path(path, "a file to write")
        data = self.artifact.read_bytes()
        write_atomic(place, lambda temporary: temporary.write_bytes(data))
        return place

    def __str__(self) -> str:
        return as_text(report_table(self.report))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(self.report)
