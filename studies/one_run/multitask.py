"""A network with several targets, in copies that train side by side: losses, gradients and errors of each copy."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.one_run.tables import Kind, Target

Parameters = dict[str, Tensor]


class MultiTaskNet(nn.Module):
    """Two hidden layers, and a linear head for all outputs.

    Args:
        features: Width of the input.
        width: Units in a hidden layer.
        outputs: How many outputs all targets have together.
    """

    def __init__(self, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the outputs ``[rows, outputs]``."""
        return self.head(self.trunk(inputs))


def stack(net: MultiTaskNet, copies: int) -> Parameters:
    """Returns copies of the parameters, ``[copies, ...]`` each, to be trained."""
    return {name: start.detach().repeat(copies, *[1] * start.ndim) for name, start in net.named_parameters()}


def forward(parameters: Parameters, inputs: Tensor) -> Tensor:
    """Returns the outputs ``[copies, rows, outputs]`` of stacked copies of a :class:`MultiTaskNet`."""
    weights = [parameters[f"{layer}.weight"].mT for layer in ("trunk.0", "trunk.2", "head")]
    biases = [parameters[f"{layer}.bias"].unsqueeze(1) for layer in ("trunk.0", "trunk.2", "head")]
    hidden = functional.relu(torch.matmul(inputs, weights[0]) + biases[0])
    hidden = functional.relu(torch.baddbmm(biases[1], hidden, weights[1]))
    return torch.baddbmm(biases[2], hidden, weights[2])


class _Group(NamedTuple):
    """Neighbouring targets of one kind."""

    kind: Kind
    outputs: slice
    columns: slice
    members: Tensor
    """1 where a column belongs to a target, ``[columns, targets]``."""


class Heads:
    """Computes what the targets of a table ask of the outputs of stacked copies.

    Args:
        targets: The targets, in the order of the outputs and of the columns of the labels.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self.terms = [target.name for target in targets]
        self.outputs = [target.outputs for target in targets]
        self._groups = list(_group(targets))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the losses ``[copies, terms]``: squared error, summed over columns, or cross-entropy.

        Args:
            outputs: ``[copies, batch, outputs]``.
            labels: ``[batch, columns]``, nan where one is missing.
        """
        return torch.cat([_losses(group, outputs, labels) for group in self._groups], dim=1)

    def present(self, labels: Tensor) -> Tensor:
        """Returns whether the batch has a label of each target, ``[terms]``."""
        known = labels.isnan().logical_not().any(0).float()
        return torch.cat([known[group.columns] @ group.members for group in self._groups]) > 0

    def gradients(self, losses: Tensor, outputs: Tensor, head: Tensor, copies: slice) -> Iterator[Tensor]:
        """Yields for each term the gradient of its loss, not weighted, by the last hidden layer.

        Args:
            losses: The losses ``[copies, terms]``, with their graph.
            outputs: What they were computed from.
            head: The weights of the head, ``[copies, outputs, width]``.
            copies: Which copies are asked for.

        Yields:
            ``[copies asked for, batch, width]``.
        """
        (slopes,) = torch.autograd.grad(losses.sum(), outputs, retain_graph=True)
        slopes, head = slopes[copies].split(self.outputs, dim=2), head[copies].detach().split(self.outputs, dim=1)
        yield from map(torch.matmul, slopes, head)

    def constant(self, labels: Tensor) -> Tensor:
        """Returns the outputs ``[outputs]`` that predict the labels best without looking at the inputs."""
        return torch.cat([_constant(group, labels[:, group.columns]) for group in self._groups])

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns what people read: the share of wrong classes, or the root of the mean squared error.

        That of a number in its unit; that of the probability of a yes, of which the wrong share says little where most
        answers are no.

        Args:
            outputs: ``[copies, rows, outputs]``.
            labels: ``[rows, columns]``, nan where one is missing.

        Returns:
            ``[copies, terms]``.
        """
        return torch.cat([_errors(group, outputs, labels) for group in self._groups], dim=1)


def _group(targets: Sequence[Target]) -> Iterator[_Group]:
    start, first = 0, 0
    for (kind, _), some in groupby(enumerate(targets), _by_kind):
        group = [target for _, target in some]
        widths = [target.values.shape[1] for target in group]
        stop, last = start + sum(target.outputs for target in group), first + sum(widths)
        members = torch.block_diag(*[torch.ones(width, 1) for width in widths])
        yield _Group(kind, slice(start, stop), slice(first, last), members)
        start, first = stop, last


def _by_kind(pair: tuple[int, Target]) -> tuple[Kind, int]:
    """Returns a key that neighbours of one kind have in common; a class stands alone."""
    index, target = pair
    return target.kind, index if target.kind == "class" else -1


def _losses(group: _Group, outputs: Tensor, labels: Tensor) -> Tensor:
    outputs, labels = outputs[:, :, group.outputs], labels[:, group.columns]
    known = labels.isnan().logical_not()
    if group.kind == "class":
        chosen = labels.nan_to_num().long().expand(len(outputs), -1, -1)
        each = -outputs.log_softmax(2).gather(2, chosen)
    elif group.kind == "yes_no":
        each = functional.softplus(outputs) - outputs * labels.nan_to_num()
    else:
        each = (outputs - labels.nan_to_num()).square()
    return (each * known).sum(1) / known.sum(0).clamp(min=1) @ group.members


def _constant(group: _Group, labels: Tensor) -> Tensor:
    if group.kind == "class":
        return _one_hot(labels, group.outputs.stop - group.outputs.start).nanmean(0).log()
    return labels.nanmean(0).logit() if group.kind == "yes_no" else labels.nanmean(0)


def _errors(group: _Group, outputs: Tensor, labels: Tensor) -> Tensor:
    outputs, labels = outputs[:, :, group.outputs], labels[:, group.columns]
    if group.kind == "class":
        wrong = (outputs.argmax(2, keepdim=True) != labels).float()
        return torch.where(labels.isnan(), torch.nan, wrong).nanmean(1)
    if group.kind == "yes_no":
        outputs = outputs.sigmoid()
    return ((outputs - labels).square().nanmean(1) @ group.members).sqrt()


def _one_hot(column: Tensor, classes: int) -> Tensor:
    """Returns ``[rows, classes]``; nan where the label is missing."""
    return torch.where(column.isnan(), torch.nan, (column == torch.arange(classes)).float())
