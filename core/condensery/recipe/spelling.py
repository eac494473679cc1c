"""Compositions in one line, for the command line, tests and the web page. Imports no torch.

::

    composition = item ("->" item)*                         "then" is the same as "->"
    item     = stage | "(" composition ")" ["*" number]     rounds; without a number the parentheses do nothing
    stage    = method ("+" method)* | braces                "with" is the same as "+"; braces alone: only train
    method   = key ["(" settings ")"] braces*
    settings = name "=" value ("," name "=" value)*
    braces   = "{" settings "}"                             name, teacher, student, players, epochs of the whole stage
    value    = number | true | false | null | word | "text" | [values] | braces | =formula | key "(" settings ")"

A key is made of letters, digits, ``-``, ``_``, ``.`` and ``/``. In a role, a bare word that names an earlier stage
means that stage, whether the name was given or is the key of its only method; so do ``stage.player`` and
``stage@epoch=3``, while ``word()`` always means a model. How players train is said as in
``{players={teacher={train=true}}}``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple, NoReturn

from condensery.errors import UnknownKey, UsageError
from condensery.recipe.schema import ROLE_WORDS, automatic_name

FIELDS = ("name", "teacher", "student", "players", "epochs")
MAX_DEPTH = 20
UNQUOTED = (
    "quote the composition: an unquoted -> is a shell redirect, and the shell has made a file named as what follows it"
)
CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
# Possessive quantifiers (++, *+, ?+) never try a shorter match, so that no input takes more than linear time.
TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<sign>->|[+*(){}\[\],=])
    | (?P<number>-?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![A-Za-z0-9_./:@\#]|-(?!>)))
    | (?P<word>(?:[A-Za-z0-9_./:@\#]|-(?!>))++(?:(?<=@epoch)=[0-9]++)?+)
    | (?P<quoted>"(?:[^"\\]|\\.)*+"|'[^']*+')""",
    re.VERBOSE,
)
KEY = re.compile(r"(?!(then|with)$)(?=[^A-Za-z]*+[A-Za-z])[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.#-]*+")


class Token(NamedTuple):
    """One token and where it starts; kinds are the groups of :data:`TOKEN`, ``formula`` and ``end``."""

    kind: str
    text: str
    start: int


def parse(text: str) -> list[dict[str, Any]]:
    """Return the stages and rounds of a composition, as plain data for :class:`condensery.recipe.Recipe`.

    :raises UsageError: naming what was expected, and where.
    """
    if text.rstrip().endswith("-"):
        raise UsageError(UNQUOTED)
    parser = _Parser(text, "composition")
    items = parser.sequence()
    parser.expect("", "'->', '+' or the end")
    return items


def parse_model(text: str, what: str = "model") -> dict[str, Any]:
    """Return the plain data of a :class:`condensery.recipe.ModelSpec`: ``timm/resnet18(in_chans=1)``.

    :raises UnknownKey: for a file, which is no key.
    :raises UsageError: naming what was expected, and where.
    """
    if text.startswith((".", "/", "~")):
        raise UnknownKey(what, text, ())
    parser = _Parser(text, what)
    spec = parser.spec()
    parser.expect("", "'(' or the end")
    return spec


def parse_value(text: str, stages: Collection[str] | None = None) -> Any:
    """Return the value that a text means.

    :param stages: names of the stages so far, where the value is a role.
    :raises UsageError: naming what was expected, and where.
    """
    return _Parser(text, "value", stages or ()).value(role=stages is not None)


def parse_task(text: str) -> dict[str, Any]:
    """Return the plain data of a :class:`condensery.recipe.TaskSpec`, as :func:`parse_model` does."""
    return parse_model(text, "task")


class _Parser:
    """A recursive-descent parser over the tokens of one line.

    :param what: what is parsed, for messages.
    :param names: names of the stages so far, which roles may use bare.
    """

    def __init__(self, text: str, what: str, names: Collection[str] = ()) -> None:
        self.text, self.what, self.names = text, what, set(names)
        self.tokens: list[Token] = []
        self.at = 0
        self.depth = 0

        start = 0
        while start < len(text):
            token = self.token(start)
            start += len(token.text)
            if token.kind != "space":
                self.tokens.append(token)
        self.tokens.append(Token("end", "", start))

    def token(self, start: int) -> Token:
        """Return the token that starts at a place in the text."""
        first = self.text[start]
        # A value can't begin with a sign, so this is the "=" of a formula: "sparsity==0.5", "[=round]".
        if first == "=" and self.tokens and self.tokens[-1].text in ("=", "[", ","):
            return Token("formula", _formula(self.text, start), start)

        match = TOKEN.match(self.text, start)
        if match is None:
            expected = "the quote to be closed" if first in "\"'" else "a key, a value or a sign"
            self.fail(expected, Token("", first, start))
        return Token(str(match.lastgroup), match[0], start)

    def fail(self, expected: str, token: Token | None = None) -> NoReturn:
        """Refuse the text at a token, by default the next one.

        :raises UsageError: naming what was expected there.
        """
        _, found, start = token or self.here
        shown = repr(found[:30]) if found else "the end"
        near = self.text[max(0, start - 20) : start] + "^" + self.text[start : start + 20]
        raise UsageError(f"{self.what}: expected {expected}, found {shown} at column {start + 1}, near {near!r}")

    @property
    def here(self) -> Token:
        """The next token, which isn't read yet."""
        return self.tokens[self.at]

    def next(self) -> Token:
        """Read one token; the end can be read again and again."""
        token = self.here
        self.at += token.kind != "end"
        return token

    def accept(self, *texts: str) -> bool:
        """Read the next token if it is one of these, and tell whether it was."""
        found = self.here.text in texts
        if found:
            self.next()
        return found

    def expect(self, text: str, expected: str) -> None:
        """Read the next token, which must be this one."""
        if not self.accept(text):
            self.fail(expected)

    def nest(self, by: int) -> None:
        """Count the brackets that are open, so that hostile input can't exhaust Python's stack."""
        self.depth += by
        if self.depth > MAX_DEPTH:
            self.fail(f"at most {MAX_DEPTH} levels of brackets")

    # ---------------------------------------------------------------- stages and rounds

    def sequence(self) -> list[dict[str, Any]]:
        items = self.item()
        while self.accept("->", "then"):
            items += self.item()
        return items

    def item(self) -> list[dict[str, Any]]:
        if not self.accept("("):
            stage = self.stage()
            if self.here.text == "*":
                self.fail("parentheses around what is repeated")
            return [stage]

        self.nest(+1)
        items = self.sequence()
        self.expect(")", "'->', '+' or ')'")
        self.nest(-1)
        if self.here.text in ("+", "with", "{"):
            self.fail("'*', '->' or the end, as '+' and braces go inside the parentheses")
        if not self.accept("*"):
            return items

        count = self.next()
        if not re.fullmatch("0*[1-9][0-9]{0,8}", count.text):
            self.fail("a number of rounds, 1 or more", count)
        return [{"stages": items, "repeat": int(count.text)}]

    def stage(self) -> dict[str, Any]:
        methods: list[dict[str, Any]] = []
        fields: dict[str, Any] = {}
        if self.here.text == "{":
            self.braces(fields)
        else:
            methods.append(self.method(fields))
            while self.accept("+", "with"):
                methods.append(self.method(fields))
        self.names.add(str(fields.get("name") or automatic_name([m["key"] for m in methods], ())))
        return {"methods": methods, **fields}

    def method(self, fields: dict[str, Any]) -> dict[str, Any]:
        method: dict[str, Any] = {"key": self.key("method")}
        if self.accept("("):
            method["settings"] = self.settings(")")
        while self.here.text == "{":
            self.braces(fields)
        return method

    def key(self, what: str) -> str:
        token = self.next()
        if token.kind not in ("word", "number") or not KEY.fullmatch(token.text):
            self.fail(f"a {what}", token)
        return token.text

    def braces(self, fields: dict[str, Any]) -> None:
        self.expect("{", "'{'")
        for name, value in self.settings("}", roles=("teacher", "student")).items():
            if name not in FIELDS:
                raise UnknownKey("stage field", name, FIELDS, where=self.what)
            if name in fields and fields[name] != value:
                raise UsageError(f"{self.what}: one stage has {name} {fields[name]!r} and {value!r}")
            fields[name] = value

    # ---------------------------------------------------------------- values

    def settings(self, closing: str, roles: Collection[str] = ()) -> dict[str, Any]:
        """Return what stands in brackets, the opening one already read.

        :param roles: names whose values are roles.
        """
        found: dict[str, Any] = {}
        while not self.accept(closing):
            if found:
                self.expect(",", f"',' or {closing!r}")

            name = self.next()
            if name.kind != "word" or not NAME.fullmatch(name.text):
                self.fail("a setting's name" if closing == ")" else "a field's name", name)
            if name.text in found:
                self.fail("each name once", name)

            self.expect("=", "'='")
            found[name.text] = self.value(role=name.text in roles)
        return found

    def value(self, *, role: bool = False) -> Any:
        """Return the next value.

        :param role: whether a bare word may be the name of a stage.
        """
        token = self.next()
        match token.kind:
            case "formula":
                return token.text.rstrip()
            case "number" | "quoted":
                return self.literal(token)
            case "word" if self.here.text == "(":
                self.at -= 1
                return self.spec()
            case "word" if token.text in CONSTANTS:
                return CONSTANTS[token.text]
            case "word":
                return f"stage:{token.text}" if role and self.is_stage(token.text) else token.text

        if token.text not in ("[", "{"):
            self.fail("a value", token)

        self.nest(+1)
        if token.text == "{":
            found = self.settings("}")
            self.nest(-1)
            return found

        values: list[Any] = []
        while not self.accept("]"):
            if values:
                self.expect(",", "',' or ']'")
            values.append(self.value(role=role))
        self.nest(-1)
        return values

    def is_stage(self, word: str) -> bool:
        """Tell whether a bare word means an earlier stage, its player, or what it was after an epoch."""
        name = word.partition("@epoch=")[0]
        return word not in ROLE_WORDS and (name in self.names or name.rpartition(".")[0] in self.names)

    def literal(self, token: Token) -> Any:
        """Return the number or text that a token writes, as JSON does; single quotes take everything as it is."""
        text = token.text
        if text[0] == "'":
            return text[1:-1]
        try:
            value = float(text) if token.kind == "number" and not text.lstrip("-").isdigit() else json.loads(text)
        except ValueError:  # An unknown escape, or more digits than Python reads.
            self.fail("a text or number as in JSON", token)
        if value in (math.inf, -math.inf):
            self.fail("a smaller number", token)
        return value

    def spec(self) -> dict[str, Any]:
        """Return a key and its settings in one mapping."""
        first = self.here
        key = self.key(self.what if self.what == "task" else "model")
        self.nest(+1)
        settings = self.settings(")") if self.accept("(") else {}
        self.nest(-1)
        if "key" in settings:
            self.fail("no setting 'key', as the key stands before the parentheses", first)
        return {"key": key, **settings}


def _formula(text: str, start: int) -> str:
    """Return the formula that starts here: up to a ``,`` or closing bracket outside its own brackets."""
    depth = 0
    for place in range(start, len(text)):
        if depth == 0 and text[place] in ",)]}":
            return text[start:place]
        depth += (text[place] in "([{") - (text[place] in ")]}")
    return text[start:]
