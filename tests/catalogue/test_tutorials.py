"""The tutorials run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "catalogue" / "docs"
BLOCK = re.compile(r"^```(python|yaml|toml|console)(?: title=\"(\S+)\")?\n(.+?)^```", flags=re.MULTILINE | re.DOTALL)


def pieces(name: str) -> list[tuple[str, str | None, str]]:
    """Return the blocks of a tutorial: language, the file that it is, and text; python that follows python is one."""
    found: list[tuple[str, str | None, str]] = []
    for language, title, text in BLOCK.findall((DOCS / f"{name}.md").read_text()):
        if found and not title and language == "python" and found[-1][:2] == ("python", None):
            text = f"{found.pop()[2]}\n{text}"
        found.append((language, title or None, text))
    return found


def follow(name: str, folder: Path) -> str:
    """Do what a tutorial says, from top to bottom, in a folder of its own; returns what was printed."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    said = ""
    for language, title, text in pieces(name):
        if title:
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(text)
            continue

        commands = [[sys.executable, "-c", text]]
        if language == "console":
            commands = [["bash", "-ec", line[2:]] for line in text.splitlines() if line.startswith("$ ")]
        for command in commands:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            assert done.returncode == 0, f"{command[-1][:200]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            said += done.stdout
    return said


def test_bring_a_net(tmp_path: Path) -> None:
    said = follow("bring-a-net", tmp_path)
    assert "What came out" in said
    assert re.search(r"^\d+\.\d+ -> \d+\.\d+$", said, flags=re.MULTILINE)
    assert "magnitude/student.task" in said
    assert (tmp_path / "runs" / "mine" / "report.json").is_file()
    assert (tmp_path / "runs" / "my-net" / "artifact.safetensors").is_file()
