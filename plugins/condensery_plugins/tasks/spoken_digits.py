"""Spoken digits: recordings of six people as sequences of frames, each the loudness in some bands of pitch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condensery import UsageError
from condensery.tasks import Arrays, DataSet, Split, TaskFacts, check_sha256, stored_arrays
from condensery_plugins.tasks.tensors import Stored, TensorTask

DATA = DataSet(
    "fsdd",
    {
        "recordings.flac": "8776918d4733cadc61f6f7688819aeb31676b23abfd2853a4a7376caef39b246",
        "index.npz": "bc8f08a2d6fe7b1460d451271f653496e670c29b34bb1dea08ed34e05ac22b5e",
    },
    source="github.com/Jakobovski/free-spoken-digit-dataset, all recordings joined in one file",
)
KEYS = ("frames", "digit", "take")
TEST_TAKES = 5
RATE, WINDOW, STEP, BANDS, FRAMES = 8000, 256, 160, 32, 51
"""Samples a second, samples of a frame, from one frame to the next; bands of a frame; frames of a second."""
MEAN, STD = -8.6, 4.13
"""Of the logarithms over the training recordings, silence behind them included."""


class SpokenDigits(TensorTask):
    """Which of ten digits is spoken: 2,700 recordings to train on and 300 to test on, 51 frames of 32 bands each.

    Jackson et al.: "Free Spoken Digit Dataset", 2016-2020, in its own split: takes 0 to 4 of each digit and speaker are
    for testing. A recording is cut after a second, or followed by silence. A frame is the logarithm of the energy in
    32 bands of equal width on the mel scale (O'Shaughnessy: "Speech Communication", 1987).
    """

    key = "spoken-digits"
    data_set = DATA
    default_model = "lstm"
    base = {
        "epochs": 20,
        "batch_size": 64,
        "optimizer": {"name": "adam", "lr": 0.003},
        "schedule": {"name": "cosine"},
    }
    sizes = {"train": 2700, "test": 300}

    def __init__(self) -> None:
        super().__init__()
        self.facts = TaskFacts("sequence", outputs=10, size=BANDS, length=FRAMES)

    def load(self, split: Split) -> Stored:
        """Read the recordings, and turn them into frames the first time."""
        stored = stored_arrays(DATA.name, KEYS, _frames_of_all)
        here = (stored["take"] < TEST_TAKES) == (split == "test")
        frames = torch.from_numpy(stored["frames"][here].astype(np.float32))
        return {"frames": (frames - MEAN) / STD}, torch.from_numpy(stored["digit"][here].astype(np.int64))

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return frames, ``(batch, 51, 32)``."""
        return stored["frames"][index]

    def example(self, batch_size: int = 2) -> Tensor:
        """Return random frames."""
        return torch.randn(batch_size, FRAMES, BANDS, generator=torch.Generator().manual_seed(0))


def _frames_of_all() -> Arrays:
    """Return the frames of all recordings, their digits and takes.

    :raises UsageError: if the recordings can't be found or read.
    """
    folder = DATA.find()
    if folder is None:
        raise DATA.missing()
    for name in DATA.files:
        check_sha256(folder / name, DATA.files)

    index = np.load(folder / "index.npz", allow_pickle=False)
    sounds = torch.split(torch.from_numpy(_samples(folder / "recordings.flac")), index["length"].tolist())
    frames = torch.stack([log_mel(sound.float() / 2**15) for sound in sounds])
    return {"frames": frames.half().numpy(), "digit": index["digit"], "take": index["take"]}


def _samples(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    try:
        import soundfile  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        message = f"{path}: needs the package 'soundfile' to be read: pip install 'condensery[speech]'"
        raise UsageError(message) from None
    samples: np.ndarray[tuple[int, ...], np.dtype[np.int16]] = soundfile.read(path, dtype="int16")[0]
    return samples


def log_mel(sound: Tensor) -> Tensor:
    """Return the logarithm of the energy in each band of each frame of a second, ``(51, 32)``.

    :param sound: samples between -1 and 1, ``(samples,)``.
    """
    second = torch.zeros(RATE)
    second[: len(sound)] = sound[:RATE]
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(second, WINDOW, STEP, window=window, return_complex=True).abs().square()
    return (bands() @ spectrum).add(1e-5).log().T


def bands() -> Tensor:
    """Return triangles that part the spectrum in overlapping bands, equally wide in mel: ``(32, 129)``."""
    pitches = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    mels = torch.linspace(0, float(_mel(torch.tensor(RATE / 2.0))), BANDS + 2)
    low, middle, high = (mels[i : BANDS + i, None] for i in range(3))

    at = _mel(pitches)
    return torch.minimum((at - low) / (middle - low), (high - at) / (high - middle)).clamp_min(0)


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)
