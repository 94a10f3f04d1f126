"""Images of two overlaid digits of scikit-learn."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor
from torch.utils.data import DataLoader, StackDataset

from lossbalance._utils.checks import check_choice, check_integer, check_number
from lossbalance.tasks.batches import Batches

SIZES = {"train": 4096, "val": 1024, "test": 2048}  # pictures composed of each part's digits
SHIFT = 3  # pixels from the left digit to the right one
TARGETS = ("left", "right", "image")


class DigitPairs(pl.LightningDataModule):
    """Pictures of two digits drawn over each other, the right one 3 pixels further on.

    Training, validation and test pictures are composed of disjoint digits, the same for the same seed. A fifth of the
    digits is for the test; of the rest, one fold in ``folds`` is for validation, stratified. The test pictures are the
    same in every fold.

    Batches are mappings: ``image`` of shape ``[batch, 8, 11]``, and one target for each term.

    Args:
        targets: What each term is to tell of the picture: ``left`` or ``right``, the digit there, or ``image``, the
            picture itself.
        unit: What pixels, from 0 to 16, are divided by.
        batch_size: Pictures in a training step.
        seed: Draws the split, the pictures and the order of the batches.
        folds: Into how many parts the digits not for the test are split.
        fold: Which of them is for validation, counted from 0.

    Raises:
        TypeError: If a number is not whole.
        ValueError: If a number is out of range, or a target unknown.
    """

    def __init__(
        self,
        targets: Mapping[str, str],
        unit: float = 16.0,
        batch_size: int = 128,
        seed: int = 0,
        folds: int = 4,
        fold: int = 0,
    ) -> None:
        super().__init__()
        for term, target in targets.items():
            check_choice(f"targets.{term}", target, TARGETS)
        self.targets = dict(targets)
        self.unit = check_number("unit", unit, "a positive number", lambda number: number > 0)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)
        self.folds = check_integer("folds", folds, 2)
        self.fold = check_integer("fold", fold, 0, self.folds - 1)

    def setup(self, stage: str) -> None:
        """Composes the pictures."""
        images, labels = load_digits(return_X_y=True)
        images = torch.as_tensor(images, dtype=torch.float32).view(-1, 8, 8) / self.unit
        labels = torch.as_tensor(labels, dtype=torch.int64)
        self.parts = split(labels, self.seed, self.folds, self.fold)
        self.sets = {}
        for number, (part, size) in enumerate(SIZES.items()):
            generator = torch.Generator().manual_seed(3 * self.seed + number)
            digits = self.parts[part]
            left, right = digits[torch.randint(len(digits), (2, size), generator=generator)]
            image = compose(images[left], images[right])
            known = {"left": labels[left], "right": labels[right], "image": image}
            targets = {term: known[target] for term, target in self.targets.items()}
            self.sets[part] = StackDataset(image=image, **targets)  # type: ignore[arg-type]  # a tensor will do

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in an order drawn anew in each epoch."""
        return self._loader("train", Batches(SIZES["train"], self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation pictures."""
        return self._loader("val", Batches(SIZES["val"], 1024))

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test pictures."""
        return self._loader("test", Batches(SIZES["test"], 1024))

    def _loader(self, part: str, batches: Batches) -> DataLoader[Any]:
        # `batch_size=None`: the sampler gives the indices of a whole batch, and indexing a tensor with them is all.
        return DataLoader(self.sets[part], sampler=batches, batch_size=None)


def split(labels: Tensor, seed: int, folds: int, fold: int) -> dict[str, Tensor]:
    """Returns the indices of the digits for ``train``, ``val`` and ``test``: disjoint, each digit equally often."""
    indices = torch.arange(len(labels)).numpy()
    rest, test = train_test_split(indices, test_size=0.2, stratify=labels, random_state=seed)
    check_integer("folds", folds, 2, int(labels[rest].bincount().min()))  # each has every digit
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(rest, labels[rest])
    train, val = list(splits)[fold]
    return {"train": torch.as_tensor(rest[train]), "val": torch.as_tensor(rest[val]), "test": torch.as_tensor(test)}


def compose(left: Tensor, right: Tensor) -> Tensor:
    """Draws digits over each other: each pixel is the darker of the two.

    Args:
        left: The digits on the left, ``[pictures, 8, 8]``.
        right: Those on the right, likewise.

    Returns:
        The pictures ``[pictures, 8, 11]``.
    """
    pad = torch.nn.functional.pad
    return torch.maximum(pad(left, (0, SHIFT)), pad(right, (SHIFT, 0)))
