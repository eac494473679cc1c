"""``inspect``: where the bytes of an artifact are, layer by layer."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensery.contract import Registry
from condensery_catalogue.app import waited_for
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.wording import collapses

if TYPE_CHECKING:
    from condensery.storage import Contents

BAR = 16
"""Characters of a full bar."""


def inspect_file(path: Path, *, as_json: bool) -> None:
    """Print where the bytes of an artifact are, once its net has been built of them.

    :raises ArtifactError: for a file that is missing, damaged, no artifact, or that describes no net.
    """
    with waited_for("reading"):
        from torch import nn

        from condensery.nets import Given
        from condensery.storage import built, read
        from condensery.tasks import GIVEN

        # A net of somebody's own isn't needed to tell its bytes: any stands for it.
        registry = open_registry().extended(GIVEN, Given(nn.Identity()))
        contents = read(path, registry)
        if contents.manifest["model"]["key"] == GIVEN:
            print("a net of somebody's own, which isn't here: its shapes aren't checked against it", file=sys.stderr)
        else:
            built(contents, registry, str(path))
        found = describe(contents, registry, path)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_sizes(found, path)


def describe(contents: Contents, registry: Registry, path: Path) -> dict[str, Any]:
    """Return the tensors and sizes of an artifact, which lies at a path, as plain data."""
    from condensery.storage import ROOT, coding_of, cost_of

    manifest, _, sizes = contents
    tensors = []
    for module, parts in manifest["tensors"].items():
        for name, record in parts.items():
            cost = cost_of(record, registry)
            numbers = math.prod(record["shape"])
            tensors.append(
                {
                    "tensor": name if module == ROOT else f"{module}.{name}",
                    "shape": record["shape"],
                    "stored": coding_of(record, registry, str(path)).spelled(),
                    "payload": cost.payload,
                    "tables": cost.tables,
                    "bits_per_number": 8 * cost.total / numbers if numbers else 0.0,
                }
            )
    structure = manifest["structure"]
    return {
        "model": manifest["model"],
        "task": manifest["task"],
        "layers": structure.get("layers", {}),
        "reshaped": sorted(structure.get("shapes", {})),
        "activations": [f"{t['target']} {t['key']}" for t in manifest["transforms"]],
        "collapsed": manifest.get("collapsed", []),
        "tensors": tensors,
        "sizes": sizes.dump(),
    }


def print_sizes(found: dict[str, Any], path: Path) -> None:
    """Print the table of tensors and the sum of bytes."""
    from rich.markup import escape

    out = console()
    sizes = found["sizes"]
    said = table("tensor", "shape", "stored as", "bytes", "tables", "bits", "share", title=str(path))
    for column in said.columns[3:6]:
        column.justify = "right"

    # Tensors with less than a hundredth of the file are summed up in one line.
    small = [t for t in found["tensors"] if t["payload"] + t["tables"] < 0.01 * sizes["file"]]
    for tensor in found["tensors"]:
        if tensor not in small:
            said.add_row(*map(escape, _cells(tensor, sizes["file"])))
    out.print(said)
    if small:
        total = sum(t["payload"] + t["tables"] for t in small)
        out.print(f"and {len(small)} small tensors, {total:,} bytes together", highlight=False)

    parts = [f"{sizes[name]:,} {name}" for name in ("payload", "tables", "header", "manifest")]
    out.print(f"file: {sizes['file']:,} bytes = {' + '.join(parts)}", highlight=False)
    numbers = sum(math.prod(t["shape"]) for t in found["tensors"])
    out.print(f"{numbers:,} numbers, {8 * sizes['file'] / max(1, numbers):.2f} bits each in the file", highlight=False)

    task = f", made on {found['task']['key']}" if found["task"] else ""
    out.print(f"model {found['model']['key']}{task}", markup=False, highlight=False)
    for line in collapses(found["collapsed"]):
        out.print(line, style="bold red", markup=False, highlight=False)
    for title, items in (
        ("registered layers", [f"{p} {layer['key']}" for p, layer in found["layers"].items()]),
        ("reshaped", found["reshaped"]),
        ("on activations", found["activations"]),
    ):
        if items:
            more = f", and {len(items) - 6} more" if len(items) > 6 else ""
            out.print(f"{title}: {', '.join(items[:6])}{more}", markup=False, highlight=False)


def _cells(tensor: dict[str, Any], file: int) -> tuple[str, ...]:
    share = (tensor["payload"] + tensor["tables"]) / file
    bar = "█" * round(BAR * share) or "▏"
    return (
        tensor["tensor"],
        "x".join(map(str, tensor["shape"])),
        tensor["stored"],
        f"{tensor['payload']:,}",
        f"{tensor['tables']:,}" if tensor["tables"] else "",
        f"{tensor['bits_per_number']:.2f}",
        f"{bar} {100 * share:.1f} %",
    )
