"""Formulas of the cards, LaTeX, as MathML, which browsers draw by themselves."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from condensery.errors import UsageError

ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form", "separator", "accent"),
    *("width", "height", "depth", "lspace", "rspace", "linethickness", "minsize", "maxsize", "movablelimits"),
    *("columnalign", "columnspacing", "rowspacing"),
}
"""What an element of a formula may say of itself; an address or a style would reach beyond it."""

CODE = re.compile("&#x([0-9A-F]+);")
"""How the converter writes a letter: in eight bytes and more."""


def mathml(formula: str, key: str) -> Markup:
    """Return each line of a card's formula as a block.

    :param key: of the card, for the error.
    :raises UsageError: for a line that can't be read or holds more than a formula, and where nothing is installed that
        reads one.
    """
    return Markup("\n").join(_line(line, key) for line in formula.splitlines() if line.strip())


def _line(line: str, key: str) -> Markup:
    try:
        from latex2mathml.converter import convert
    except ImportError:
        raise UsageError("formulas need the package 'latex2mathml': pip install 'condensery[site]'") from None

    if line.count("{") != line.count("}"):
        raise UsageError(f"{key}: formula: {line.strip()!r} can't be read: braces don't match")
    try:
        made = convert(line.strip(), xmlns="", display="block")
        tree = ElementTree.fromstring(made)
    except Exception as error:  # each kind of mistake has an exception of its own there, some of them IndexError
        raise UsageError(f"{key}: formula: {line.strip()!r} can't be read: {error or type(error).__name__}") from error

    for element in tree.iter():
        if not re.fullmatch(r"m[a-z]+", element.tag) or set(element.attrib) - ATTRIBUTES - {"xmlns"}:
            raise UsageError(f"{key}: formula: {line.strip()!r} holds more than a formula: {element.tag}")
        # What it doesn't know it hands on as it stands.
        if unknown := re.search(r"\\\w*", element.text or ""):
            raise UsageError(f"{key}: formula: no such command: {unknown[0]}")
    return Markup(CODE.sub(_letter, made.replace(' xmlns=""', "")))


def _letter(code: re.Match[str]) -> str:
    """Return the letter of a code, or the code where the letter is a sign of HTML's own."""
    letter = chr(int(code[1], 16))
    return code[0] if letter in "<>&" else letter
