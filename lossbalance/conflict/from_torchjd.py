"""Any rule of TorchJD that goes by inner products."""

from typing import Any

import torch
from torch import Tensor, nn

from lossbalance.conflict.base import Aggregator
from lossbalance.conflict.eigen import decompose

_BY_ENTRY = ("ExcessMTLWeighting",)  # it keeps the square of every entry
_KEY = "_state_key"  # by which TorchJD knows what its buffers were made for


class FromTorchJD(Aggregator):
    r"""Makes an aggregator of a weighting of TorchJD, such as ``UPGradWeighting()``, or of an aggregator that has one.

    A weighting that takes the matrix of inner products :math:`G` is given it. NashMTL's takes the gradients themselves,
    and is given the symmetric :math:`G^{1/2}`, whose rows have the same inner products. Either is given the terms that
    are present, on the scale on which the longest gradient has length 1; one made for a number of terms refuses others.

    Most of these run a solver on the CPU: a step waits for the device, and does not compile into one graph. Random
    weightings draw from PyTorch's generator. What a weighting keeps in buffers is in the state; NashMTL's last solution
    and ``update_weights_every`` start anew after a resume.

    Args:
        weighting: The weighting or aggregator (``pip install "lossbalance[torchjd]"``). Those with a solver, which are
            CAGrad, DualProj, FairGrad, NashMTL and UPGrad, need it too: ``pip install "lossbalance[torchjd-solvers]"``.

    Shape:
        The matrix is ``[terms, terms]``; multipliers are ``[terms]``.

    Raises:
        TypeError: If ``weighting`` is neither, or one that does not go by inner products.

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
        """Returns the multipliers ``[terms]``; a weighting with a memory is not shown what is not sound."""
        if not gramian.isfinite().all() or not gramian.any():
            return torch.ones_like(gramian[0])
        return super().forward(gramian)

    def combine(self, gramian: Tensor, present: Tensor, tolerance: float) -> Tensor:
        """Calls the weighting with what is known of the terms that are present."""
        known = gramian[present][:, present]
        if self.takes_gradients:
            values, vectors = decompose(known)
            known = vectors * values.clamp(min=0).sqrt() @ vectors.T
        multipliers = torch.zeros_like(gramian[0])
        multipliers[present] = self.weighting(known).to(multipliers)
        return multipliers

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            if getattr(module, _KEY, None) is not None:
                destination[f"{path}.{_KEY}"] = getattr(module, _KEY)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Makes room for what TorchJD makes in the first step."""
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            if hasattr(module, _KEY):
                setattr(module, _KEY, state_dict.pop(f"{path}.{_KEY}", None))
            for name, buffer in module._buffers.items():
                if buffer is None and f"{path}.{name}" in state_dict:
                    module._buffers[name] = torch.empty_like(state_dict[f"{path}.{name}"])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _find_weighting(given: Any) -> tuple[Any, bool]:
    """Returns the weighting, and whether it takes gradients rather than their inner products."""
    try:
        from torchjd.aggregation import GramianWeightedAggregator, WeightedAggregator, Weighting
    except ImportError as error:
        raise ImportError('`FromTorchJD` needs TorchJD: `pip install "lossbalance[torchjd]"`.') from error
    if isinstance(given, GramianWeightedAggregator):
        return given.gramian_weighting, False
    weighting = given.weighting if isinstance(given, WeightedAggregator) else given
    name = type(weighting).__name__
    if not isinstance(weighting, Weighting) or name in _BY_ENTRY:
        raise TypeError(
            f"`weighting` must be a weighting of TorchJD that goes by inner products, such as UPGradWeighting(), or an "
            f"aggregator that has one, got {given!r}."
        )
    return weighting, weighting is not given or name == "_NashMTLWeighting"
