"""What a recipe needs is looked for, and looked at, before it is played."""

from __future__ import annotations

from pathlib import Path

import pytest

from condensery import Registry, UsageError
from condensery.recipe import parse_recipe
from condensery_catalogue.inputs import refuse_missing

REGISTRY = Registry.open()
SOURCE = "$CONDENSERY_DATA/ckpt_cifar10_resnet/{}.safetensors"


def test_published_weights_are_told_from_others_and_all_that_is_wrong_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path))
    (tmp_path / "ckpt_cifar10_resnet").mkdir()
    (tmp_path / "ckpt_cifar10_resnet" / "resnet20.safetensors").write_bytes(b"another net")
    recipes = [
        parse_recipe({"model": {"key": key, "weights": SOURCE.format(key)}, "task": "digits", "stages": ["magnitude"]})
        for key in ("resnet20", "resnet32")
    ]
    with pytest.raises(UsageError, match=r"^here: not all that it needs is here: ") as caught:
        refuse_missing(recipes, REGISTRY, "here")
    wrong, absent = str(caught.value).split("; ")
    assert "resnet20.safetensors: damaged or another version" in wrong
    assert "resnet32.safetensors: no such file" in absent
    assert all("from github.com/akamaster" in said for said in (wrong, absent))
