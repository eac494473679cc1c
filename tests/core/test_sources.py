"""What no source of this project does: nothing that a file brings is ever run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for home in ("core", "plugins", "catalogue", "reproductions") for p in (ROOT / home).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "imp"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
YAML_LOADER = "core/condensery/recipe/yaml_files.py"
IMPORTERS = {"core/condensery/contract/registry.py", "core/condensery/contract/named.py"}
"""Where what an installed plugin names is imported, and what a user names in a command."""


def problems(tree: ast.AST, where: str) -> Iterator[str]:
    for node in ast.walk(tree):
        line = f"{where}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (f"{line} imports {a.name}" for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"{line} imports {node.module}"
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            if ast.unparse(node.value) != "False":
                yield f"{line} says {node.arg}={ast.unparse(node.value)}"
        elif isinstance(node, ast.Call):
            yield from (f"{line} {what}" for what in call_problems(node, where))
    calls = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        # Handed on as a value, it would be called somewhere else, where nobody sees with what.
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained" and id(node) not in calls:
            yield f"{where}:{node.lineno} hands on {ast.unparse(node)}"


def call_problems(call: ast.Call, where: str) -> Iterator[str]:
    target = ast.unparse(call.func)
    said = {k.arg for k in call.keywords}
    last = target.rpartition(".")[2]
    if target in BUILTINS or target.startswith("builtins."):
        yield f"calls {target}"
    if target in ("torch.load", "torch.jit.load", "torch.hub.load", "os.system", "os.popen"):
        yield f"calls {target}"
    if target.startswith("yaml.") and last in ("load", "load_all", "unsafe_load", "full_load") and where != YAML_LOADER:
        yield f"calls {target}: use parse_yaml"
    if last in ("find_spec", "import_module", "exec_module", "load_module") and where not in IMPORTERS:
        yield f"calls {target}: packages are found by package_folder"
    if last in ("from_pretrained", "from_config") and "trust_remote_code" not in said:
        yield f"calls {target} without trust_remote_code=False"
    if target in ("np.load", "numpy.load") and "allow_pickle" not in said:
        yield f"calls {target} without allow_pickle=False"


def test_no_source_runs_what_a_file_brings() -> None:
    assert len(SOURCES) > 150
    found: list[str] = []
    for path in SOURCES:
        where = path.relative_to(ROOT).as_posix()
        found += problems(ast.parse(path.read_text(encoding="utf-8")), where)
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import loads",
        "eval(x)",
        "torch.load(p)",
        "yaml.load(t, Loader=L)",
        "importlib.util.find_spec('a.b')",
        "Auto.from_pretrained(s)",
        "Auto.from_pretrained(s, trust_remote_code=given)",
        "Auto.from_pretrained(s, trust_remote_code=True)",
        "partial(Auto.from_pretrained, s)",
        "np.load(p, mmap_mode='c')",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_look_itself_sees(code: str) -> None:
    assert list(problems(ast.parse(code), "somewhere.py"))
