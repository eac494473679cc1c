from __future__ import annotations

from condensery_plugins.tasks.xor import Xor


def test_the_examples_are_those_of_exclusive_or() -> None:
    task = Xor()
    for split in ("train", "test"):
        (batch,) = task.batches(split, batch_size=4)
        assert batch.labels is not None
        assert list(zip(batch.inputs.tolist(), batch.labels.tolist(), strict=True)) == [
            ([0.0, 0.0], 0),
            ([0.0, 1.0], 1),
            ([1.0, 0.0], 1),
            ([1.0, 1.0], 0),
        ]
    assert task.count("train") == task.count("test") == 4
    assert set(task.example(8).flatten().tolist()) == {0.0, 1.0}
