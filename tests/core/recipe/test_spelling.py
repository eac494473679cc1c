from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import (
    MethodSpec,
    ModelSpec,
    PlayerSpec,
    RoundSpec,
    StageSpec,
    format_stages,
    parse,
    parse_model,
    parse_recipe,
    parse_task,
)

Stages = list[StageSpec | RoundSpec]


def stages_of(items: list[Any]) -> Stages:
    return parse_recipe({"model": "resnet20", "task": "digits", "stages": items}).stages


def one(*keys: str, **fields: Any) -> dict[str, Any]:
    return {"methods": [{"key": k} for k in keys], **fields}


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network-slimming -> hinton-kd", [one("network-slimming"), one("hinton-kd")]),
        ("a->b then c", [one("a"), one("b"), one("c")]),
        ("a + b with c -> d", [one("a", "b", "c"), one("d")]),
        (
            "(jmc-disp(ratio=0.1) + jmc-dkd) * 5",
            [
                {
                    "stages": [{"methods": [{"key": "jmc-disp", "settings": {"ratio": 0.1}}, {"key": "jmc-dkd"}]}],
                    "repeat": 5,
                }
            ],
        ),
        (
            "((a -> b) * 2 -> c) * 3",
            [{"stages": [{"stages": [one("a"), one("b")], "repeat": 2}, one("c")], "repeat": 3}],
        ),
        ("(a -> b) -> c", [one("a"), one("b"), one("c")]),
        ("(a)*5->b", [{"stages": [one("a")], "repeat": 5}, one("b")]),
        (
            "l1-filter-pruning{name=p} -> hinton-kd(T=4){teacher=p, student=resnet20}",
            [
                one("l1-filter-pruning", name="p"),
                {
                    "methods": [{"key": "hinton-kd", "settings": {"T": 4}}],
                    "teacher": "stage:p",
                    "student": "resnet20",
                },
            ],
        ),
        ("a{epochs=3} + b{teacher=original}{name=x}", [one("a", "b", epochs=3, teacher="original", name="x")]),
        ("a{name=x} + b{name=x}", [one("a", "b", name="x")]),
        ("magnitude -> {epochs=2} -> {}", [one("magnitude"), one(epochs=2), one()]),
        ("my.pkg/1-bit-adam_v2", [one("my.pkg/1-bit-adam_v2")]),
        ("a()", [{"methods": [{"key": "a", "settings": {}}]}]),
        ("a\n  -> b\t+ c", [one("a"), one("b", "c")]),
    ],
)
def test_structure(text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("1e-4", 1e-4),
        ("-1E+2", -100.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("cosine", "cosine"),
        ("x.safetensors", "x.safetensors"),
        ("1-bit", "1-bit"),
        ("then", "then"),
        ('"a b, (c)"', "a b, (c)"),
        (r'"say \"hi\" \u00e9"', 'say "hi" é'),
        ("'no \\ escapes'", "no \\ escapes"),
        ('"true"', "true"),
        ("[]", []),
        ("[8, 4.5, w, [2]]", [8, 4.5, "w", [2]]),
        ("=1-0.8**(round+1)", "=1-0.8**(round+1)"),
        ("= max(1, 4 - round) ", "= max(1, 4 - round)"),
        ("[8, =8-round, min]", [8, "=8-round", "min"]),
        (
            "resnet20(width=2, weights=x.safetensors)",
            {"key": "resnet20", "width": 2, "weights": "x.safetensors"},
        ),
    ],
)
def test_values(text: str, value: Any) -> None:
    (stage,) = parse(f"m(first={text}, second=1)")
    assert stage["methods"] == [{"key": "m", "settings": {"first": value, "second": 1}}]
    assert type(stage["methods"][0]["settings"]["first"]) is type(value)


@pytest.mark.parametrize(
    ("role", "value"),
    [
        ("previous", "previous"),
        ("input", "input"),  # the word, although a stage has that name
        ("p", "stage:p"),
        ("magnitude", "stage:magnitude"),  # the automatic name of a stage with one method
        ("later", "later"),  # not an earlier stage, so a model
        ("p()", {"key": "p"}),
        ('"p"', "p"),
        ("stage:p.generator@epoch=3", "stage:p.generator@epoch=3"),
        ('"stage:a+b"', "stage:a+b"),
        ("timm/resnet18(in_chans=1)", {"key": "timm/resnet18", "in_chans": 1}),
        ("[p, original, resnet20(width=2.0)]", ["stage:p", "original", {"key": "resnet20", "width": 2.0}]),
    ],
)
def test_roles(role: str, value: Any) -> None:
    stages = parse(f"a{{name=p}} -> a{{name=input}} -> magnitude -> kd(x=p){{teacher={role}}} -> b{{name=later}}")
    assert stages[3]["teacher"] == value
    assert stages[3]["methods"][0]["settings"] == {"x": "p"}  # only roles name stages


def test_models_and_tasks() -> None:
    spec = parse_model("timm/vit_tiny_patch16_224(img_size=32, depth=6)")
    assert spec == {"key": "timm/vit_tiny_patch16_224", "img_size": 32, "depth": 6}
    assert ModelSpec.model_validate(spec).config == {"img_size": 32, "depth": 6}
    assert parse_model("resnet20") == {"key": "resnet20"}
    assert parse_task("cifar10(size=16)") == {"key": "cifar10", "size": 16}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a method, found the end at column 1"),
        ("a ->", "expected a method, found the end at column 5"),
        ("a + -> b", "expected a method, found '->' at column 5, near 'a + ^-> b'"),
        ("then -> b", "expected a method, found 'then'"),
        ("5 -> b", "expected a method, found '5'"),
        ("a b", "expected '->', '+' or the end, found 'b'"),
        ("a)", "expected '->', '+' or the end, found ')'"),
        ("(a", "expected '->', '+' or ')', found the end"),
        ("a > b", "expected a key, a value or a sign, found '>'"),
        ("a * 5", "expected parentheses around what is repeated, found '*'"),
        ("(a) * 0", "expected a number of rounds, 1 or more, found '0'"),
        ("(a) * 2.5", "expected a number of rounds"),
        ("(a) *", "expected a number of rounds, 1 or more, found the end"),
        ("(a -> b) + c", "go inside the parentheses, found '+'"),
        ("(a -> b){name=x}", "go inside the parentheses, found '{'"),
        ("a(T=4", "expected ',' or ')', found the end"),
        ("a(T)", "expected '=', found ')'"),
        ("a(T=)", "expected a value, found ')'"),
        ("a(T=1,)", "expected a setting's name, found ')'"),
        ("a(2=1)", "expected a setting's name, found '2'"),
        ("a(T=1, T=2)", "expected each name once, found 'T'"),
        ("a(T=(1, 2))", "expected a value, found '('"),
        ("a(T=[1 2])", "expected ',' or ']', found '2'"),
        ("a(T=1)(b=2)", "found '('"),
        ('a(T="x)', "expected the quote to be closed"),
        (r'a(T="\q")', "text or number as in JSON"),
        ("a(T=007)", "text or number as in JSON"),
        ("a(T=1e999)", "expected a smaller number"),
        ("a(T=" + "9" * 5000 + ")", "text or number as in JSON"),
        ("a{name=x", "expected ',' or '}'"),
        ("a(m=r(key=3))", "expected no setting 'key'"),
        ("(" * 50 + "a" + ")" * 50, "at most 20 levels"),
        ("a(T=" + "[" * 50 + "]" * 50 + ")", "at most 20 levels"),
        ("a(T=" + "r(x=" * 50 + "1" + ")" * 51, "at most 20 levels"),
    ],
)
def test_errors_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["network-slimming -", "network-slimming-", "a -> b - ", "-"])
def test_what_the_shell_leaves_of_an_unquoted_arrow(text: str) -> None:
    with pytest.raises(UsageError, match="quote the composition: an unquoted -> is a shell redirect"):
        parse(text)


def test_fields_of_a_stage() -> None:
    with pytest.raises(UnknownKey, match="unknown stage field 'techer'; did you mean 'teacher'"):
        parse("a{techer=original}")
    with pytest.raises(UsageError, match="one stage has name 'x' and 'y'"):
        parse("a{name=x} + b{name=y}")


@pytest.mark.parametrize("text", ["", "res net", "r(", "r(a=1) x", "r + s", "r(key=3)"])
def test_broken_models(text: str) -> None:
    with pytest.raises(UsageError, match=r"^model: expected"):
        parse_model(text)
    with pytest.raises(UsageError, match=r"^task: expected"):
        parse_task(text)


FRAGMENTS = ["->", "+", "*", "(", ")", "{", "}", "[", "]", "=", ",", '"', "'", "\\", "-", "a", "b-c", "then", "with"]
FRAGMENTS += ["name=p", "teacher=", "stage:p", "@epoch=3", "1", "2.5", "1e5", "null", " ", "\n", "=round", "é", "\0"]


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=30) | st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join))
def test_no_text_breaks_it(text: str) -> None:
    problems = [""]
    for read in (parse, parse_model, parse_task):
        try:
            read(text)
        except UsageError as error:
            problems.append(str(error))
    assert all(len(p.splitlines()) <= 1 for p in problems)


def test_long_text_is_read_in_linear_time() -> None:
    start = time.process_time()
    for part in ("1", "a", "-", '"\\', "1.", "1e", "@epoch=", "= (", "[", "a(b=1) -> "):
        with pytest.raises(UsageError):
            parse("a(x=" + part * 20_000)
    assert time.process_time() - start < 4  # 0.3 s; a regular expression that backtracks takes minutes


# ---------------------------------------------------------------- the inverse


@pytest.mark.parametrize(
    "text",
    [
        "network-slimming -> hinton-kd",
        "hinton-kd -> magnitude -> hinton-kd",
        "(jmc-disp(ratio=0.1) + jmc-dkd) * 5",
        "((a -> b) * 2 -> c) * 3",
        "l1-filter-pruning{name=p} -> hinton-kd(T=4){teacher=p, student=resnet20}",
        "magnitude -> hinton-kd{teacher=magnitude}",
        "magnitude -> hinton-kd{teacher=magnitude()}",
        "a + b -> {teacher=[input, resnet20(width=2.0)], epochs=0}",
        'a(x="two words", y="true", z=[1, =8-round, null], w=resnet20(depth=3))',
        'a + b -> c{teacher="stage:a+b"}',
        "a -> a -> c{teacher=stage:a#2}",
        "a{name=b} -> b",
        "a{name=co, teacher=original, players={teacher={train=true}, peer#1={every=1/5}}} -> b{teacher=co.teacher}",
        "(a{epochs=[1, 2]}) * 2 -> b{teacher=a@epoch=1, epochs==round}",
        "a(bits={layer1.0.conv1=4, fc=[2, 3]}, none={})",
    ],
)
def test_format_gives_the_shortest_spelling(text: str) -> None:
    assert format_stages(stages_of(parse(text))) == text


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (StageSpec(name="s", data={"labels": False}), "'data'"),
        (StageSpec(name="s", train={"epochs": 3}), "'train'"),
        (RoundSpec(stages=[StageSpec()], until="sparsity >= 0.9"), "'until'"),
        (RoundSpec(stages=[StageSpec()], over="layers"), "'over'"),
        (StageSpec(methods=[MethodSpec(key="two words")]), "two words"),
        (StageSpec(methods=[MethodSpec(key="then")]), "then"),
        (StageSpec(methods=[MethodSpec(key="a", settings={"x": {"y z": 1}})]), "{y z=1}"),
        (StageSpec(methods=[MethodSpec(key="a", settings={"x y": 1})]), "x y"),
        (StageSpec(methods=[MethodSpec(key="a", settings={"x": float("nan")})]), "NaN"),
        (StageSpec(teacher=ModelSpec(key="input")), "input"),
    ],
)
def test_what_one_line_cannot_say_is_an_error(item: StageSpec | RoundSpec, message: str) -> None:
    with pytest.raises(UsageError, match="one line can't say") as caught:
        format_stages([item])
    assert message in str(caught.value)


def test_format_leaves_its_input_alone() -> None:
    stage = StageSpec(methods=[MethodSpec(key="a")])
    assert format_stages([stage]) == "a"
    assert stage == StageSpec(methods=[MethodSpec(key="a")])


KEYS = st.from_regex(r"[a-z][a-z0-9_./-]{0,6}[a-z0-9]", fullmatch=True).filter(
    lambda k: k not in ("then", "with", "previous", "input", "original", "self")
)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["true", "1", "-1e5", "a b", "=1-round", "=a,b", "=(", "previous", "'", '"']
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES.filter(lambda name: name != "key"), inner, max_size=2)
    ),
    max_leaves=5,
)
MODELS = st.builds(
    lambda key, settings: ModelSpec.model_validate(settings | {"key": key}),
    KEYS,
    st.dictionaries(NAMES.map(lambda n: f"x_{n}"), VALUES, max_size=2),
)
ROLES = st.sampled_from(["previous", "input", "original", "stage:a", "stage:a.gen@epoch=2", "stage:b c"]) | MODELS
STAGES = st.builds(
    StageSpec,
    methods=st.lists(
        st.builds(
            MethodSpec, key=KEYS, settings=st.dictionaries(NAMES.filter(lambda n: n != "key"), VALUES, max_size=2)
        ),
        max_size=2,
    ),
    teacher=st.none() | ROLES | st.lists(ROLES, max_size=2),
    student=ROLES,
    epochs=st.none() | st.integers(0, 99) | st.just("=round + 1"),
    players=st.dictionaries(NAMES, st.builds(PlayerSpec, train=st.booleans(), every=st.just("1/5")), max_size=2),
)
ITEMS: st.SearchStrategy[StageSpec | RoundSpec] = st.recursive(
    STAGES,
    lambda inner: st.builds(RoundSpec, stages=st.lists(inner, min_size=1, max_size=2), repeat=st.integers(1, 99)),
    max_leaves=3,
)


@settings(deadline=None)
@given(st.lists(ITEMS, min_size=1, max_size=3), st.lists(TEXTS.filter(bool), max_size=3, unique=True))
def test_parse_is_the_inverse_of_format(items: Stages, names: list[str]) -> None:
    for item, name in zip(items, names, strict=False):
        if isinstance(item, StageSpec):
            item.name = name
    wanted = stages_of([i.model_copy(deep=True) for i in items])
    text = format_stages(items)
    assert "\n" not in text
    assert stages_of(parse(text)) == wanted
    assert format_stages(wanted) == text
