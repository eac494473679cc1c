"""Arithmetic in recipes: settings that depend on the round, and conditions that end a round. Imports no torch.

A formula is read as a Python expression of numbers, variables, ``+ - * / // % **``, comparisons, ``and``, ``or``,
``not``, ``min``, ``max``, ``abs``, ``sqrt`` and ``log`` (natural). Anything else is refused before it is computed.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from condensery.errors import UnknownKey, UsageError, short

MAX_LENGTH = 200
MAX_BITS = 1024
Names = Mapping[str, float]
Compute = Callable[[Names], Any]


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b > 0 and a.bit_length() * b > MAX_BITS:
        raise OverflowError("the power is too large")  # It would take all memory.
    if a < 0 and b % 1:
        raise ArithmeticError("a root of a negative number")
    return a**b


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.Not: operator.not_}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "log": math.log, "max": max, "min": min, "sqrt": math.sqrt}


def evaluate(formula: str, names: Names) -> float | bool:
    """Return the value of a formula; a comparison gives ``True`` or ``False``.

    :param formula: with or without the ``=`` that a setting starts with.
    :param names: the variables; all that occur must be there, also where ``and`` and ``or`` wouldn't look.
    :raises UsageError: for anything but the grammar above, an unknown variable (with the nearest one), a division by
        zero, and a result that is no finite number.
    """
    compute, needed = _read(formula)
    for name in sorted(needed):
        if name not in names:
            raise UnknownKey("variable", name, names, where=_where(formula))

    try:
        result: float | bool = compute(names)
        finite = math.isfinite(result)
    except (ArithmeticError, ValueError) as error:
        raise UsageError(f"{_where(formula)}: {error.args[-1]}") from None
    if not finite:
        raise UsageError(f"{_where(formula)}: the result is {result}, not a finite number")
    return result


def holds(condition: str, names: Names) -> bool:
    """Tell whether a condition such as ``sparsity >= 0.9`` holds.

    :raises UsageError: as :func:`evaluate`, and if it compares nothing.
    """
    result = evaluate(condition, names)
    if not isinstance(result, bool):
        raise UsageError(f"{_where(condition)} is not a condition; compare something, as in 'sparsity >= 0.9'")
    return result


def variables(formula: str) -> set[str]:
    """Return the names of the variables in a formula, without computing it.

    :raises UsageError: for anything but the grammar above.
    """
    return _read(formula)[1]


def setting_at(value: Any, round_index: int, rounds: int, *, is_list: bool, where: str = "setting") -> Any:
    """Return the value of a setting in one round.

    :param value: plain; or a list with one entry for each round; or a text that starts with ``=``, a formula of
        ``round`` (0 in the first) and ``rounds``. An entry of the list may be a formula.
    :param is_list: the setting's own type is a list: a list is then the value, whatever its length.
    :param where: names the setting in errors.
    :raises UsageError: for a broken formula, and a list that hasn't one entry for each round.
    """
    if isinstance(value, list):
        if is_list:
            return [setting_at(v, round_index, rounds, is_list=True, where=where) for v in value]
        if len(value) != rounds:
            raise UsageError(f"{where}: a list gives one value for each round; {len(value)} for {rounds} rounds")
        value = value[round_index]

    if not isinstance(value, str) or not value.startswith("="):
        return value
    try:
        return evaluate(value, {"round": round_index, "rounds": rounds})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _where(formula: str) -> str:
    return f"formula {short(formula)}"


def _read(formula: str) -> tuple[Compute, set[str]]:
    """Return what computes the formula, and its variables.

    :raises UsageError: for anything but the grammar above.
    """
    text = formula.strip().removeprefix("=").strip()
    if len(text) > MAX_LENGTH:
        raise UsageError(f"{_where(formula)} is longer than {MAX_LENGTH} characters")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python remarks on style, such as a number glued to a word.
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "too deeply nested"
        raise UsageError(f"{_where(formula)} can't be read: {reason}") from None

    names: set[str] = set()
    return _build(tree, names, _where(formula)), names


def _build(node: ast.expr, variables: set[str], where: str) -> Compute:
    """Return what computes one node; a node that isn't of the grammar is refused here."""

    def build(part: ast.expr) -> Compute:
        return _build(part, variables, where)

    match node:
        case ast.Constant(value=number) if type(number) in (int, float):
            return lambda _: number
        case ast.Name(id=name):
            variables.add(name)
            return lambda names: names[name]
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            one, of = _UNARY[type(sign)], build(inner)
            return lambda names: one(of(names))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            two, a, b = _BINARY[type(sign)], build(left), build(right)
            return lambda names: two(a(names), b(names))
        case ast.BoolOp(op=sign, values=values):
            parts, every = [build(v) for v in values], all if isinstance(sign, ast.And) else any
            return lambda names: every(bool(p(names)) for p in parts)
        case ast.Compare(left=left, ops=signs, comparators=rest) if all(type(s) in _COMPARE for s in signs):
            tests, points = [_COMPARE[type(s)] for s in signs], [build(p) for p in (left, *rest)]
            pairs = list(zip(tests, points, points[1:], strict=False))
            return lambda names: all(test(a(names), b(names)) for test, a, b in pairs)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            if name not in _FUNCTIONS:
                raise UnknownKey("function", name, _FUNCTIONS, where=where)
            if (len(args) < 2) if name in ("min", "max") else (len(args) != 1):
                raise UsageError(f"{where}: {name} takes {'two or more numbers' if name in ('min', 'max') else 'one'}")
            function, arguments = _FUNCTIONS[name], [build(a) for a in args]
            return lambda names: function(*[a(names) for a in arguments])
    raise UsageError(f"{where}: only numbers, variables, arithmetic and comparisons are allowed")
