"""Nets and data that a user might bring: none of them is known to a registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

SIDE = 8


class Plain(nn.Module):
    """A small CNN with batch norms."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images).mean((2, 3)))
        return scores


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Images of three classes, bright at another place each; noise is drawn anew whenever one is looked at."""

    def __init__(self, examples: int = 60) -> None:
        self.labels = torch.arange(examples) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        label = self.labels[index]
        image = 0.1 * torch.randn(1, SIDE, SIDE)
        image[0, 2 * int(label) : 2 * int(label) + 3] += 1.0
        return image, label


def loaders(examples: int = 60, batch_size: int = 20) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a loader that shuffles noisy images, and one of a fixed set."""
    torch.manual_seed(5)
    noisy = Noisy(30)
    fixed = TensorDataset(torch.stack([noisy[i][0] for i in range(30)]), noisy.labels)
    return DataLoader(Noisy(examples), batch_size=batch_size, shuffle=True), DataLoader(fixed, batch_size=15)


class Once:
    """A source that can be gone through only once."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(2, 1, SIDE, SIDE), torch.zeros(2, dtype=torch.long)
