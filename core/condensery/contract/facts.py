"""The words of ``needs``, ``leaves`` and ``removes``, and the check of a whole recipe against them.

The words are few on purpose; legal orders are computed from them, before anything trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from condensery.errors import NotApplicable, PluginError, UnknownKey

if TYPE_CHECKING:
    from condensery.contract.methods import Method

WORDS: dict[str, str] = {
    "float-weights": "weights that may take any value: no quantizer holds them",
    "batch-norm": "batch normalization layers with a scale",
    "dense-shape": "layers with the shape that their builder gave them",
    "classifier-logits": "a task with class scores that can be softened (its rows)",
    "attention": "attention layers",
    "teacher": "a teacher role in the stage",
    "mask": "masks on weights",
    "palette": "weights that share few values",
    "quantized-weights": "weights held on a grid by a quantizer",
    "quantized-activations": "activations held on a grid by a quantizer",
}


def check_words(key: str, cls: type[Method]) -> None:
    """Refuse a word that isn't in :data:`WORDS`.

    :raises PluginError: naming the method, the word and the nearest known one.
    """
    for field in ("needs", "leaves", "removes"):
        for word in getattr(cls, field, ()):  # A class that is no method is refused where it is built.
            if word not in WORDS:
                raise PluginError(str(UnknownKey("word", word, WORDS, where=f"{key}: {field}")))


class Facts:
    """What holds at one point of a recipe, and who took away what.

    :param words: the words that hold at the start.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = set(words)
        self.taken: dict[str, tuple[str, str]] = {}

    def enter(self, stage: str, methods: Sequence[tuple[str, Method]], roles: Iterable[str]) -> None:
        """Check the methods of one stage in order and apply what they leave and remove.

        What an earlier pass of the same stage removed isn't missing in the next: a method goes on with its own.

        :param methods: ``(name, method)`` pairs.
        :param roles: words that hold in this stage only (``teacher``).
        :raises NotApplicable: naming the method and the missing word with the reason.
        """
        here = {*roles, *(word for word, (_, by) in self.taken.items() if by == stage)}
        for name, method in methods:
            words = method.words()
            for word in sorted(words.needs - self.words - here):
                raise NotApplicable(name, f"stage {stage!r} lacks {WORDS[word]} ({self._why_not(word)})")

            # A method that removes and leaves the same word has put something new in the place of the old.
            self.words -= words.removes
            self.taken |= dict.fromkeys(words.removes, (name, stage))
            self.words |= words.leaves
            here -= words.removes

    def _why_not(self, word: str) -> str:
        """Return why a word doesn't hold here, or what to do about it."""
        if word not in self.taken:
            return "there are none here"
        method, stage = self.taken[word]
        return f"{method} in stage {stage!r} took them away"
