"""A mistake that gives no error: writing what is a temporary while a transform lies on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PARAMETERS = {"weight", "bias"}
SAME_MEMORY = {"data", "T", "mT"}
VIEWS = {"view", "view_as", "reshape", "flatten", "detach", "t", "transpose", "permute", "squeeze", "unsqueeze"}
"""What gives the same numbers under another shape, so that writing there writes the parameter."""


def lost_writes(path: Path, name: str = "") -> Iterator[str]:
    """Yield the places of a method's file that write ``module.weight`` or ``module.bias`` in place.

    Classes without hooks are left out: a layer or a transform may do with its own parameters what it likes.

    :param path: of the file.
    :param name: what the file is called in the messages, by default its path.
    """
    for node in _of_methods(ast.parse(path.read_text(encoding="utf-8"))):
        for place in _written(node):
            found = _parameter(place)
            if found is not None:
                yield (
                    f"{name or path}:{node.lineno} writes {ast.unparse(found)} in place: under a mask or a quantizer "
                    "that is a temporary, and the write is lost; write the latent of stage.weights()"
                )


def _of_methods(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield all parts of a file but those of classes without hooks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and "hookimpl" not in ast.unparse(node):
            continue
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        yield from _of_methods(node)


def _written(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement or a call writes in place; binding a name or an attribute anew is no such write."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        changed = isinstance(node, ast.AugAssign)
        yield from (t for t in targets if changed or isinstance(t, ast.Subscript) or _is_data(t))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _in_place(node.func.attr):
        if ast.unparse(node.func.value).endswith("init"):
            yield from node.args[:1]  # as in nn.init.zeros_(module.weight)
        else:
            yield node.func.value


def _in_place(name: str) -> bool:
    """Tell whether a function of this name writes what it is called on."""
    return name.endswith("_") and not name.startswith("_") and name != "requires_grad_"


def _is_data(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "data"


def _parameter(node: ast.expr) -> ast.Attribute | None:
    """Return the ``module.weight`` whose memory an expression is, or ``None``."""
    if isinstance(node, ast.Subscript):
        return _parameter(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VIEWS:
        return _parameter(node.func.value)
    if isinstance(node, ast.Attribute):
        return node if node.attr in PARAMETERS else _parameter(node.value) if node.attr in SAME_MEMORY else None
    return None
