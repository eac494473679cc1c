"""Arithmetic in recipes: settings that depend on the round, and conditions that end a round."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from condensery.errors import UnknownKey, UsageError

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "sqrt": math.sqrt, "log": math.log}


def evaluate(formula: str, names: Mapping[str, float]) -> float | bool:
    """Return the value of a formula of numbers, names, arithmetic and comparisons.

    :raises UsageError: for anything else, or naming an unknown variable.
    """
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(f"formula {formula!r}: can't be read") from None

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                if name not in names:
                    raise UnknownKey("variable", name, names, where=f"formula {formula!r}")
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -value(inner)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return not value(inner)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
                a, b = value(left), value(right)
                if isinstance(sign, ast.Pow) and (abs(b) > 64 or abs(a) > 1e6):
                    raise UsageError(f"formula {formula!r}: the power is too large")
                return _BINARY[type(sign)](a, b)
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(value(p) for p in parts)
            case ast.BoolOp(op=ast.Or(), values=parts):
                return any(value(p) for p in parts)
            case ast.Compare(left=left, ops=signs, comparators=rest) if all(type(s) in _COMPARE for s in signs):
                points = [value(left), *[value(r) for r in rest]]
                pairs = zip(signs, points, points[1:], strict=False)
                return all(_COMPARE[type(s)](a, b) for s, a, b in pairs)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                if name not in _FUNCTIONS:
                    raise UnknownKey("function", name, _FUNCTIONS, where=f"formula {formula!r}")
                return _FUNCTIONS[name](*[value(a) for a in args])
        raise UsageError(f"formula {formula!r}: only numbers, names, arithmetic and comparisons")

    try:
        result = value(tree.body)
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"formula {formula!r}: {error}") from None
    if not isinstance(result, (int, float)):
        raise UsageError(f"formula {formula!r}: gives no number")
    return result


def setting_at(value: Any, index: int, rounds: int, *, is_list: bool, where: str) -> Any:
    """Return a setting for one round: a plain value, the list's entry, or the ``=formula``'s value.

    :param is_list: the setting's own type is a list, so a list is a plain value.
    :raises UsageError: if a list hasn't one entry for each round.
    """
    if isinstance(value, str) and value.startswith("="):
        return evaluate(value[1:], {"round": index, "rounds": rounds})
    if isinstance(value, Sequence) and not isinstance(value, str) and not is_list:
        if len(value) != rounds:
            raise UsageError(f"{where}: {len(value)} values for {rounds} rounds")
        return value[index]
    return value
