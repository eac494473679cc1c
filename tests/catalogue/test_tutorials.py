"""The tutorials run as they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "catalogue" / "docs"


@pytest.mark.parametrize("name", ["bring-a-net"])
def test_a_tutorials_code_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    """In a process and a folder of its own, as a reader would paste it."""
    pieces = re.findall(r"^```python\n(.+?)^```", (DOCS / f"{name}.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(pieces) >= 5
    (tmp_path / "tutorial.py").write_text("\n".join(pieces))
    command = [sys.executable, "tutorial.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    said = done.stdout
    assert "What came out" in said
    assert re.search(r"^\d+\.\d+ -> \d+\.\d+$", said, flags=re.MULTILINE)
    assert "magnitude/student.task" in said
    assert (tmp_path / "runs" / "mine" / "report.json").is_file()
