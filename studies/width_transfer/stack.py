"""Copies of one network that train side by side, each under an L2 penalty of its own strength."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from lossbalance.penalties import L2
from lossbalance.penalties.share import GradientShare

MOMENTUM = 0.9
Parameters = dict[str, Tensor]


class StackedL2:
    """What :class:`L2` does in mode ``"gradient"``, on copies of a network whose strengths differ.

    Args:
        net: The network; what a penalty counts of it, and by what factor, is asked of :class:`L2`.
        normalization: That of the penalty; ``"share"`` for ``L2(share=...)``.
        strengths: The strength, or the share, of each copy, ``[copies]``.
    """

    def __init__(self, net: nn.Module, normalization: str, strengths: Tensor) -> None:
        self.share = GradientShare(strengths) if normalization == "share" else None
        self.strengths = strengths
        names = {parameter: name for name, parameter in net.named_parameters()}
        groups = L2(1.0, "sum" if self.share else normalization).groups(net)
        self.factors = {names[weight]: group.factors[0] for group in groups for weight in group.weights}

    def gradients(self, parameters: Parameters, gradients: Parameters) -> Parameters:
        """Returns the penalty's gradient by each penalized weight, ``[copies, ...]``.

        Args:
            parameters: All parameters of the copies, ``[copies, ...]``.
            gradients: The gradients of the data's loss by them.
        """
        slopes = {name: 2 * factor * parameters[name] for name, factor in self.factors.items()}
        if self.share is not None:
            self.share.observe(norms({name: gradients[name] for name in slopes}), norms(slopes))
            self.strengths = self.share.strength
        return {name: self.strengths.view(-1, *[1] * (slope.ndim - 1)) * slope for name, slope in slopes.items()}

    def values(self, parameters: Parameters) -> Tensor:
        """Returns the value of each copy's penalty, ``[copies]``."""
        parts = [factor * parameters[name].flatten(1).square().sum(1) for name, factor in self.factors.items()]
        return self.strengths * torch.stack(parts).sum(0)


class Trained(NamedTuple):
    """Copies after training."""

    parameters: Parameters
    """``[copies, ...]`` each."""
    value_share: Tensor
    """The penalty's part of the total, ``[copies]``, a mean over the steps."""
    gradient_share: Tensor
    """The norm of its gradient, as part of the sum of this and that of the data's, over the penalized weights; a mean
    over the steps."""


def train(net: nn.Module, penalty: StackedL2, images: Tensor, labels: Tensor, steps: int, lr: float) -> Trained:
    """Trains copies of a classifier by SGD with momentum on the cross-entropy of all the data in each step.

    Args:
        net: What every copy starts as.
        penalty: The penalties.
        images: ``[pictures, ...]``.
        labels: ``[pictures]``.
        steps: How many steps; the learning rate falls to 0 along half a cosine.
        lr: The learning rate of the first step.
    """
    copies = len(penalty.strengths)
    parameters = {name: start.detach().expand(copies, *start.shape).clone() for name, start in net.named_parameters()}
    velocity = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    slope = vmap(grad_and_value(_loss(net)), in_dims=(0, None, None))
    shares = torch.zeros(2, copies)
    for step in range(steps):
        gradients, losses = slope(parameters, images, labels)
        added = penalty.gradients(parameters, gradients)
        of_penalty, of_data = norms(added), norms({name: gradients[name] for name in added})
        value = penalty.values(parameters)
        shares += torch.stack([value / (value + losses), of_penalty / (of_penalty + of_data)]) / steps
        rate = lr * (1 + math.cos(math.pi * step / steps)) / 2
        for name, parameter in parameters.items():
            gradient = gradients[name] + added[name] if name in added else gradients[name]
            velocity[name].mul_(MOMENTUM).add_(gradient)
            parameter.sub_(rate * velocity[name])
    return Trained(parameters, *shares)


def evaluate(net: nn.Module, parameters: Parameters, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cross-entropy and accuracy of each copy, ``[copies]`` each."""

    def accuracy(parameters: Parameters) -> Tensor:
        return (functional_call(net, parameters, (images,)).argmax(1) == labels).float().mean()

    return vmap(_loss(net), in_dims=(0, None, None))(parameters, images, labels), vmap(accuracy)(parameters)


def norms(tensors: Parameters) -> Tensor:
    """Returns for each copy the norm of all its tensors together, ``[copies]``."""
    return torch.stack([tensor.flatten(1).norm(dim=1) for tensor in tensors.values()]).norm(dim=0)


def _loss(net: nn.Module) -> Callable[[Parameters, Tensor, Tensor], Tensor]:
    def loss(parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, parameters, (images,)), labels)

    return loss
