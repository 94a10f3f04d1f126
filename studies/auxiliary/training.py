"""Training of stacked copies of a network, whose gradients are combined at the last hidden layer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from studies.auxiliary.cases import Case
from studies.auxiliary.methods import StackedMethods
from studies.one_run.multitask import Heads, MultiTaskNet, Parameters, forward, stack

_TRUNK = ("trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias")
_HEAD = ("head.weight", "head.bias")
_COMPARISON = 4  # steps between two comparisons with the gradient of held-out rows, which cost five backward passes


class Batches(NamedTuple):
    """The rows of each step."""

    training: Sequence[Tensor]
    held_out: Sequence[Tensor]
    """For the copies whose gate goes by gradients of held-out rows."""


def train(
    net: MultiTaskNet, case: Case, methods: StackedMethods, batches: Batches, lr: float, interval: int
) -> Iterator[Parameters]:
    """Trains copies of a network by Adam, each as :class:`~lossbalance.WeightedLoss` with a branch would.

    The norms of a step weigh that step, as with ``shared=``.

    Args:
        net: What every copy starts as.
        case: The targets and the data.
        methods: The weights and multipliers of the copies.
        batches: The rows of each step.
        lr: The learning rate.
        interval: Steps between two checkpoints.

    Yields:
        The parameters of the copies at a checkpoint, ``[copies, ...]`` each; training continues in these tensors.
    """
    heads = Heads(case.targets)
    parameters = {name: parameter.requires_grad_() for name, parameter in stack(net, methods.copies).items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr, fused=True)
    cosines: dict[int, Tensor] = {}
    for step, (rows, held_out) in enumerate(zip(*batches, strict=True)):
        if step % _COMPARISON == 0:
            cosines = {index: _compare(parameters, index, heads, case, rows, held_out) for index in methods.held_out}
        _backward(parameters, heads, case.inputs[rows], case.labels[rows], methods, cosines)
        optimizer.step()
        if (step + 1) % interval == 0:
            yield {name: parameter.detach() for name, parameter in parameters.items()}


def _compare(parameters: Parameters, index: int, heads: Heads, case: Case, rows: Tensor, held_out: Tensor) -> Tensor:
    """Returns the cosines ``[terms]`` of a copy's trunk gradients with that of the main loss on held-out rows."""
    copy = {name: parameter[index : index + 1] for name, parameter in parameters.items()}
    trunk = [copy[name] for name in _TRUNK]

    def differentiate(loss: Tensor) -> Tensor:
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, trunk, retain_graph=True)])

    (losses,) = heads.losses(forward(copy, case.inputs[rows]), case.labels[rows])
    (unseen,) = heads.losses(forward(copy, case.inputs[held_out]), case.labels[held_out])
    gradients = torch.stack([differentiate(loss) for loss in losses])
    return torch.cosine_similarity(gradients, differentiate(unseen[0]).unsqueeze(0), dim=1)


def _backward(
    parameters: Parameters,
    heads: Heads,
    inputs: Tensor,
    labels: Tensor,
    methods: StackedMethods,
    cosines: Mapping[int, Tensor],
) -> None:
    """Sets the gradients: heads get those of their weighted losses, the trunk the combined one."""
    hidden = _run_trunk(parameters, inputs)
    weight, bias = (parameters[name] for name in _HEAD)
    outputs = torch.baddbmm(bias.unsqueeze(1), hidden.detach(), weight.mT)
    losses = heads.losses(outputs, labels)
    gradients = heads.gradients(losses, outputs, weight, slice(0, len(losses)))
    rows = torch.stack(list(gradients), dim=1).flatten(2)  # [copies, terms, entries]
    gramians = rows @ rows.mT
    weights = methods.weigh(gramians)
    multipliers = methods.aggregate(gramians * weights.unsqueeze(1) * weights.unsqueeze(2), cosines)
    combined = ((weights * multipliers).unsqueeze(1) @ rows).view_as(hidden)
    of_trunk = torch.autograd.grad(hidden, [parameters[name] for name in _TRUNK], combined)
    of_head = torch.autograd.grad((weights * losses).sum(), [weight, bias])
    for name, gradient in zip((*_TRUNK, *_HEAD), (*of_trunk, *of_head), strict=True):
        parameters[name].grad = gradient.contiguous()


def _run_trunk(parameters: Parameters, inputs: Tensor) -> Tensor:
    """Returns the last hidden layer ``[copies, rows, width]``."""
    (first, first_bias), (second, second_bias) = ([parameters[name] for name in _TRUNK[i : i + 2]] for i in (0, 2))
    hidden = functional.relu(torch.matmul(inputs, first.mT) + first_bias.unsqueeze(1))
    return functional.relu(torch.baddbmm(second_bias.unsqueeze(1), hidden, second.mT))
