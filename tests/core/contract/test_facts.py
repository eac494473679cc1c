from __future__ import annotations

from pathlib import Path

import pytest
from tests.core.helpers import recipe, registry

from condensery import NotApplicable, Run


def test_needs_are_checked_before_anything_trains(tmp_path: Path) -> None:
    for stages, says in (
        (["lsq", "lsq"], "lsq in stage 'lsq' took them away"),
        ([{"methods": [{"qkd": {"phase": "tutor"}}], "teacher": "original"}], "quantizer"),
    ):
        with pytest.raises(NotApplicable, match=says):
            Run(recipe(stages), registry(), out=tmp_path / "o").execute()
        assert not (tmp_path / "o").exists()
