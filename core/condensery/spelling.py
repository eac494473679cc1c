"""The one-line spelling of a composition: ``network-slimming -> hinton-kd(T=4){teacher=original}``.

Grammar::

    composition = item { ("->" | "then") item }
    item        = "(" composition ")" [ "*" number ] | stage
    stage       = method { ("+" | "with") method }
    method      = key [ "(" settings ")" ] [ "{" fields "}" ]
    settings    = name "=" value { "," name "=" value }

Braces belong to the stage; its fields are ``name``, ``teacher``, ``student`` and ``epochs``. A parenthesis around one
stage may be followed by braces too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import ROLE_WORDS, MethodSpec, ModelSpec, RoundSpec, StageSpec

FIELDS = ("name", "teacher", "student", "epochs")
_TOKEN = re.compile(
    r"""\s*(?:(?P<arrow>->)|(?P<text>"[^"]*"|'[^']*')|(?P<formula>=\s*[^,=(){}\[\]]*(?:\([^(){}]*(?:\([^()]*\)[^(){}]*)*\)[^,(){}]*)*)"""
    r"""|(?P<mark>[(){}\[\],+*])|(?P<word>(?:(?!->)[^\s(){}\[\],+*="'])+))"""
)


class _Tokens:
    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        if re.search(r"(^|[^-])-\s*$", text):
            raise UsageError("quote the composition: an unquoted -> is a shell redirect, so it ends in a lone '-'")

    def peek(self, pattern: str = "") -> tuple[str, str] | None:
        if not self.text[self.place :].strip():
            return None
        match = _TOKEN.match(self.text, self.place)
        if match is None:
            raise self.error("a method")
        kind = str(match.lastgroup)
        return kind, match[kind]

    def take(self) -> tuple[str, str]:
        found = self.peek()
        if found is None:
            raise self.error("more")
        match = _TOKEN.match(self.text, self.place)
        assert match is not None
        self.place = match.end()
        return found

    def accept(self, *values: str) -> bool:
        found = self.peek()
        if found is not None and found[0] != "text" and found[1] in values:
            self.take()
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            raise self.error(repr(value))

    def equals(self) -> str:
        """Take ``=`` and return what directly follows it if that is a whole formula, else nothing."""
        rest = self.text[self.place :]
        match = re.match(r"\s*=\s*", rest)
        if match is None:
            raise self.error("'='")
        self.place += match.end()
        return ""

    def error(self, expected: str) -> UsageError:
        around = self.text[max(0, self.place - 20) : self.place] + "»" + self.text[self.place : self.place + 20]
        return UsageError(f"composition: expected {expected} at {around!r}")


def parse(text: str) -> list[dict[str, Any]]:
    """Return a composition's stages as plain data for :class:`condensery.recipe.Recipe`.

    :raises UsageError: one line that says what was expected where.
    """
    tokens = _Tokens(text)
    if tokens.peek() is None:
        raise UsageError("composition: it is empty; e.g. 'magnitude -> hinton-kd{teacher=original}'")
    try:
        items = _composition(tokens)
    except RecursionError:
        raise UsageError("composition: nested too deeply") from None
    if tokens.peek() is not None:
        raise tokens.error("'->', '+' or the end")
    _name_roles(items, set())
    return items


def _composition(tokens: _Tokens) -> list[dict[str, Any]]:
    items = _item(tokens)
    while tokens.accept("->", "then"):
        items = items + _item(tokens)
    return items


def _item(tokens: _Tokens) -> list[dict[str, Any]]:
    if not tokens.accept("("):
        return [_stage(tokens)]
    inner = _composition(tokens)
    tokens.expect(")")
    found = tokens.peek()
    if found == ("mark", "{"):
        if len(inner) != 1 or "stages" in inner[0]:
            raise tokens.error("'->' or '*': braces belong to one stage")
        _fields(tokens, inner[0])
    if not tokens.accept("*"):
        return inner
    kind, count = tokens.take()
    if kind != "word" or not count.isdecimal() or int(count) < 1:
        raise UsageError(f"composition: after '*' comes a number of rounds, got {count!r}")
    return [{"stages": inner, "repeat": int(count)}]


def _stage(tokens: _Tokens) -> dict[str, Any]:
    stage: dict[str, Any] = {"methods": []}
    while True:
        kind, key = tokens.take() if tokens.peek() is not None else ("", "")
        if kind != "word" or not re.fullmatch(r"[A-Za-z][\w./-]*", key):
            raise tokens.error("the key of a method")
        settings: dict[str, Any] = {}
        if tokens.accept("("):
            settings = _settings(tokens, ")")
        stage["methods"].append({"key": key, "settings": settings})
        if tokens.peek() == ("mark", "{"):
            _fields(tokens, stage)
        if not tokens.accept("+", "with"):
            return stage


def _fields(tokens: _Tokens, stage: dict[str, Any]) -> None:
    tokens.expect("{")
    for name, value in _settings(tokens, "}").items():
        if name not in FIELDS:
            raise UnknownKey("field", name, FIELDS, where="composition")
        if stage.get(name, value) != value:
            raise UsageError(f"composition: one stage has {name}={stage[name]!r} and {name}={value!r}")
        stage[name] = value


def _settings(tokens: _Tokens, end: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not tokens.accept(end):
        kind, name = tokens.take() if tokens.peek() is not None else ("", "")
        if kind != "word" or not name.isidentifier():
            raise tokens.error("a setting's name")
        if name in found:
            raise UsageError(f"composition: {name!r} is given twice")
        tokens.equals()
        found[name] = _value(tokens)
        if not tokens.accept(","):
            tokens.expect(end)
            break
    return found


def _value(tokens: _Tokens) -> Any:
    if tokens.accept("["):
        values = []
        while not tokens.accept("]"):
            values.append(_value(tokens))
            if not tokens.accept(","):
                tokens.expect("]")
                break
        return values
    found = tokens.peek()
    if found is None or found[0] not in ("word", "text", "formula"):
        raise tokens.error("a value")
    kind, text = tokens.take()
    if kind == "text":
        return text[1:-1]
    if kind == "formula":
        return text.strip()
    if tokens.peek() == ("mark", "("):
        tokens.expect("(")
        return {"key": text, **_settings(tokens, ")")}
    return _scalar(text)


def _scalar(text: str) -> Any:
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) and len(text) < 400 else float(text)
    return {"true": True, "false": False, "null": None}.get(text, text)


def _name_roles(items: list[dict[str, Any]], names: set[str]) -> None:
    """Turn the bare name of an earlier stage into ``stage:<name>``."""
    for item in items:
        if "stages" in item:
            _name_roles(item["stages"], names)
            continue
        teacher = item.get("teacher")
        if isinstance(teacher, list):
            item["teacher"] = [_role(t, names) for t in teacher]
        elif teacher is not None:
            item["teacher"] = _role(teacher, names)
        if item.get("name") is not None:
            names.add(str(item["name"]))


def _role(value: Any, names: set[str]) -> Any:
    if isinstance(value, str) and value not in ROLE_WORDS:
        head = value.partition(".")[0].partition("@")[0]
        if head in names:
            return f"stage:{value}"
    return value


def parse_model(text: str) -> dict[str, Any]:
    """Return ``timm/vit_tiny_patch16_224(img_size=32)`` as plain data of a model or a task.

    :raises UsageError: if it is anything else.
    """
    tokens = _Tokens(text)
    value = _value(tokens) if tokens.peek() is not None else None
    if tokens.peek() is not None or not isinstance(value, (str, dict)):
        raise UsageError(f"model or task {text!r}: write a key, or key(setting=value)")
    return {"key": value} if isinstance(value, str) else value


def format_stages(stages: Sequence[StageSpec | RoundSpec]) -> str:
    """Return the one-line spelling of a recipe's stages, as far as the line can say it."""
    return " -> ".join(_format_item(s) for s in stages)


def _format_item(item: StageSpec | RoundSpec) -> str:
    if isinstance(item, RoundSpec):
        return f"({format_stages(item.stages)}) * {item.repeat}"
    default = "+".join(m.key for m in item.methods)
    fields: dict[str, Any] = {}
    if item.name and item.name.partition("#")[0] != default:
        fields["name"] = item.name
    if item.teacher is not None:
        fields["teacher"] = item.teacher
    if item.student != "previous":
        fields["student"] = item.student
    if item.epochs is not None:
        fields["epochs"] = item.epochs
    return " + ".join(_format_method(m) for m in item.methods) + (f"{{{_format_settings(fields)}}}" if fields else "")


def _format_method(method: MethodSpec) -> str:
    return method.key + (f"({_format_settings(method.settings)})" if method.settings else "")


def _format_settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={_format_value(v)}" for n, v in settings.items())


def _format_value(value: Any) -> str:
    if isinstance(value, ModelSpec):
        plain = value.model_dump(mode="json", exclude_defaults=True)
        key = plain.pop("key")
        return f"{key}({_format_settings(plain)})" if plain else str(key)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_format_value(v) for v in value) + "]"
    if isinstance(value, str):
        plain_word = re.fullmatch(r"(?:(?!->)[^\s(){}\[\],+*=\"'])+", value) and _scalar(value) == value
        quote = "'" if '"' in value else '"'
        return value if plain_word or value.startswith("=") else f"{quote}{value}{quote}"
    return str(yaml.safe_dump(value, default_flow_style=True)).split("\n")[0]
