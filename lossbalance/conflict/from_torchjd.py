"""Adapter for TorchJD's Gramian-based weightings: UPGrad, NashMTL, FairGrad and others."""

from typing import Any

import torch
from torch import Tensor, nn

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.eigen import decompose

_ENTRYWISE = ("ExcessMTLWeighting",)  # accumulates the square of every gradient entry
_KEY = "_state_key"  # TorchJD's record of the shape and device that its buffers were made for


class FromTorchJD(Aggregator):
    r"""Makes an aggregator of a weighting of TorchJD, such as ``UPGradWeighting()``, or of an aggregator that has one.

    A weighting of the Gram matrix :math:`G` receives it. NashMTL's takes the gradients themselves, and receives the
    symmetric :math:`G^{1/2}`, whose rows have the same inner products. Both cover the terms that are present, scaled so
    that the longest gradient has length 1; a weighting made for a fixed number of terms raises for any other.

    Most of these run a solver on the CPU: a step synchronizes with the device, and does not compile into one graph.
    Random weightings draw from PyTorch's global generator. Buffers of the weighting are in the state; NashMTL's last
    solution and ``update_weights_every`` restart after a resume.

    Args:
        weighting: The weighting or aggregator (``pip install "lossbalance[torchjd]"``). CAGrad,
            DualProj, FairGrad, NashMTL and UPGrad also need a solver: ``pip install "lossbalance[torchjd-solvers]"``.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``weighting`` is neither, or is not a function of inner products.

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

    def forward(self, gramian: Tensor) -> Tensor:
        """Returns the multipliers ``[terms]``; the weighting never receives a zero or non-finite matrix."""
        if not gramian.isfinite().all() or not gramian.any():
            return torch.ones_like(gramian[0])
        return super().forward(gramian)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Calls the weighting with the inner products of the terms that are present."""
        inner = gramian[present][:, present]
        if self.takes_gradients:
            values, vectors = decompose(inner)
            inner = vectors * values.clamp(min=0).sqrt() @ vectors.T
        multipliers = torch.zeros_like(gramian[0])
        multipliers[present] = self.weighting(inner).to(multipliers)
        return multipliers

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            if getattr(module, _KEY, None) is not None:
                destination[f"{path}.{_KEY}"] = getattr(module, _KEY)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Allocates the buffers that TorchJD creates in its first step."""
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            if hasattr(module, _KEY):
                setattr(module, _KEY, state_dict.pop(f"{path}.{_KEY}", None))
            for name, buffer in module._buffers.items():
                if buffer is None and f"{path}.{name}" in state_dict:
                    module._buffers[name] = torch.empty_like(state_dict[f"{path}.{name}"])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _find_weighting(given: Any) -> tuple[Any, bool]:
    """Returns the weighting, and whether it takes gradients instead of their inner products."""
    try:
        from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator, Weighting
    except ImportError as error:
        raise ImportError('`FromTorchJD` needs TorchJD: `pip install "lossbalance[torchjd]"`.') from error
    if isinstance(given, GramianWeightedAggregator):
        return given.gramian_weighting, False
    weighting = given.weighting if isinstance(given, WeightedAggregator) else given
    name = type(weighting).__name__
    if not isinstance(weighting, Weighting) or name in _ENTRYWISE:
        raise TypeError(
            f"`weighting` must be a weighting of TorchJD that goes by inner products, such as UPGradWeighting(), or an "
            f"aggregator that has one, got {given!r}."
        )
    return weighting, weighting is not given or name == "_NashMTLWeighting"
