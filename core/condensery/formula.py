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

from condensery.errors import UnknownKey, UsageError

MAX_LENGTH = 200
MAX_BITS = 1024
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
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.Not: operator.not_}
_ONE: dict[str, Callable[[Any], Any]] = {"abs": abs, "sqrt": math.sqrt, "log": math.log}
_MANY: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def evaluate(formula: str, names: Mapping[str, float]) -> float | bool:
    """Return the value of a formula; a comparison gives ``True`` or ``False``.

    :param formula: with or without the ``=`` that a setting starts with.
    :param names: the variables; all that occur must be there, also where ``and`` and ``or`` wouldn't look.
    :raises UsageError: for anything but the grammar above, an unknown variable (with the nearest one), a division by
        zero, and a result that is no finite number.
    """
    tree = _read(formula)
    for name in sorted(_variables(tree)):
        if name not in names:
            raise UnknownKey("variable", name, names, where=_where(formula))
    try:
        result = _value(tree, names)
    except (ArithmeticError, ValueError) as error:
        raise UsageError(f"{_where(formula)}: {str(error) or 'the numbers are too large'}") from None
    if isinstance(result, complex) or not math.isfinite(result):
        raise UsageError(f"{_where(formula)}: the result {result} is not a finite real number")
    return bool(result) if isinstance(result, bool) else result


def holds(condition: str, names: Mapping[str, float]) -> bool:
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
    return _variables(_read(formula))


def setting_at(value: Any, round_index: int, rounds: int, *, is_list: bool, where: str = "setting") -> Any:
    """Return the value of a setting in one round.

    :param value: plain; or a list with one entry for each round; or a text that starts with ``=``, a formula of
        ``round`` (0 in the first) and ``rounds``. An entry of the list may be a formula.
    :param is_list: the setting's own type is a list: a list is then a plain value, whatever its length.
    :param where: names the setting in errors.
    :raises UsageError: for a broken formula, and a list that hasn't one entry for each round.
    """
    if isinstance(value, list) and not is_list:
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
    return f"formula {formula if len(formula) <= 60 else formula[:57] + '...'!r}"


def _read(formula: str) -> ast.expr:
    """Return the syntax tree, in which every node is of the grammar."""
    text = formula.strip().removeprefix("=").strip()
    if len(text) > MAX_LENGTH:
        raise UsageError(f"{_where(formula)} is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own remarks on style, such as a number glued to a word
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"{_where(formula)} can't be read: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{_where(formula)} can't be read: {error or 'too deeply nested'}") from None
    _check(tree, formula)
    return tree


def _check(node: ast.expr, formula: str) -> None:
    match node:
        case ast.Constant(value=number) if type(number) in (int, float):
            parts: list[ast.expr] = []
        case ast.Name():
            parts = []
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            parts = [inner]
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            parts = [left, right]
        case ast.BoolOp(values=parts):
            pass
        case ast.Compare(left=left, ops=signs, comparators=rest) if all(type(s) in _COMPARE for s in signs):
            parts = [left, *rest]
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]):
            known = {**_ONE, **_MANY}
            if name not in known:
                raise UnknownKey("function", name, known, where=_where(formula))
            if len(parts) < 2 if name in _MANY else len(parts) != 1:
                raise UsageError(f"{_where(formula)}: {name} takes {'two numbers or more' if name in _MANY else 'one'}")
        case _:
            raise UsageError(f"{_where(formula)}: only numbers, variables, arithmetic and comparisons are allowed")
    for part in parts:
        _check(part, formula)


def _variables(tree: ast.expr) -> set[str]:
    functions = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in functions}


def _value(node: ast.expr, names: Mapping[str, float]) -> Any:
    match node:
        case ast.Constant(value=number):
            return number
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=sign, operand=inner):
            return _UNARY[type(sign)](_value(inner, names))
        case ast.BinOp(left=left, op=sign, right=right):
            a, b = _value(left, names), _value(right, names)
            return _power(a, b) if isinstance(sign, ast.Pow) else _BINARY[type(sign)](a, b)
        case ast.BoolOp(op=sign, values=parts):
            results = (bool(_value(p, names)) for p in parts)
            return all(results) if isinstance(sign, ast.And) else any(results)
        case ast.Compare(left=left, ops=signs, comparators=rest):
            points = [_value(p, names) for p in (left, *rest)]
            return all(_COMPARE[type(s)](a, b) for s, a, b in zip(signs, points, points[1:], strict=False))
        case ast.Call(func=ast.Name(id=name), args=args):
            return {**_ONE, **_MANY}[name](*[_value(a, names) for a in args])
    raise AssertionError(f"{type(node).__name__} passed the check")


def _power(a: Any, b: Any) -> Any:
    """Return a ** b; whole numbers of more than :data:`MAX_BITS` bits would take all memory."""
    if isinstance(a, int) and isinstance(b, int) and b > 0 and a.bit_length() * b > MAX_BITS:
        raise OverflowError("the power is too large")
    return a**b
