"""Any rule of TorchJD that goes by inner products."""

from typing import Any

import torch
from torch import Tensor, nn

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.eigen import decompose


class FromTorchJD(Aggregator):
    r"""Makes an aggregator of a weighting of TorchJD, such as ``UPGradWeighting()``, or of an aggregator that has one.

    A weighting that takes the matrix of inner products :math:`G` is given it. One that takes the gradients themselves,
    such as NashMTL's, is given the symmetric :math:`G^{1/2}`, whose rows have the same inner products. Either is given
    the terms that are present; one that was made for a number of terms refuses any other.

    Most of these run a solver on the CPU: a step waits for the device, and does not compile into one graph. Random
    weightings draw from PyTorch's generator, and a weighting with a memory in plain attributes, such as NashMTL's last
    solution, has none after a resume.

    Args:
        weighting: The weighting or aggregator (``pip install "lossbalance[torchjd]"``). UPGrad and DualProj need the
            extra ``torchjd[quadprog-projector]``, NashMTL ``torchjd[nash_mtl]``, FairGrad ``torchjd[fairgrad]``.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``weighting`` is neither, or an aggregator that does not weigh gradients.

    Source:
        Quinton and Rey (2024), "Jacobian descent for multi-objective optimization", https://arxiv.org/abs/2406.16232

    Example:
        >>> from torchjd.aggregation import SumWeighting
        >>> FromTorchJD(SumWeighting())(torch.eye(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting, self.takes_gradients = _find_weighting(weighting)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Calls the weighting with what is known of the terms that are present."""
        known = gramian[present][:, present]
        if self.takes_gradients:
            values, vectors = decompose(known)
            known = vectors * values.clamp(min=0).sqrt() @ vectors.T
        multipliers = torch.zeros_like(gramian[0])
        multipliers[present] = self.weighting(known).to(multipliers)
        return multipliers


def _find_weighting(given: Any) -> tuple[Any, bool]:
    """Returns the weighting, and whether it takes gradients rather than their inner products."""
    try:
        from torchjd.aggregation import Weighting
    except ImportError as error:
        raise ImportError('`FromTorchJD` needs TorchJD: `pip install "lossbalance[torchjd]"`.') from error
    for candidate, takes_gradients in (
        (given, False),
        (getattr(given, "gramian_weighting", None), False),
        (getattr(given, "weighting", None), True),
    ):
        if isinstance(candidate, Weighting):
            return candidate, takes_gradients
    raise TypeError(
        f"`weighting` must be a weighting of TorchJD, such as UPGradWeighting(), or an aggregator that has one, got "
        f"{given!r}."
    )
