"""Normalizations: the scale on which the penalty of a tensor is measured."""

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lossbalance._utils.checks import did_you_mean

Normalization = Literal["sum", "mean", "tensor_mean", "fan"]


def check_normalization(value: object) -> Normalization:
    """Returns ``value`` once it is a known normalization.

    Raises:
        ValueError: If it is not; the message has the nearest known one.
    """
    for normalization in get_args(Normalization):
        if value == normalization:
            return normalization
    known = get_args(Normalization)
    raise ValueError(f"`normalization` must be one of {list(known)}, got {value!r}{did_you_mean(value, known)}.")


def scale(normalization: Normalization, weight: Tensor, owner: nn.Module, attribute: str, count: int) -> float:
    """Returns the factor of the penalty of one tensor.

    Args:
        normalization: ``"sum"``: 1; ``"mean"``: 1 over the number of all penalized weights; ``"tensor_mean"``: 1
            over that of the tensor; ``"fan"``: fan-in plus fan-out over that of the tensor.
        weight: The tensor.
        owner: The module that uses it.
        attribute: Its name in ``owner``.
        count: The number of all penalized weights.
    """
    if normalization == "sum":
        return 1.0
    if normalization == "mean":
        return 1 / count
    return (sum(fans(weight, owner, attribute)) if normalization == "fan" else 1) / weight.numel()


def fans(weight: Tensor, owner: nn.Module, attribute: str) -> tuple[int, int]:
    """Returns fan-in and fan-out: the number of inputs of one output, and of outputs of one input.

    ``torch.nn.init`` takes them from the shape alone; here the groups and the direction of a convolution are taken into
    account, and the stacked projections of attention are separate matrices. A tensor of fewer than two dimensions, such
    as a bias, is the column of a constant input of 1.
    """
    if weight.ndim < 2:
        return 1, weight.numel()
    field = weight[0, 0].numel()
    first, second = weight.shape[:2]
    if isinstance(owner, _ConvTransposeNd):  # [inputs, outputs / groups, *kernel]
        return first // owner.groups * field, second * field
    if isinstance(owner, _ConvNd):  # [outputs, inputs / groups, *kernel]
        return second * field, first // owner.groups * field
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):  # [inputs, outputs]
        return first, second
    if isinstance(owner, nn.MultiheadAttention) and attribute == "in_proj_weight":  # queries, keys and values
        return second, first // 3
    return second * field, first * field
