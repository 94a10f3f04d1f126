"""Optimizer of the parameters of a scheme, beside the module's own: Adam without weight decay, equal on all ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lossbalance._utils.distributed import Ranks


class SchemeOptimizer:
    """Trains the parameters of a scheme, the same on every rank, and skips a step that is not finite.

    Args:
        groups: The parameters, as ``WeightedLoss.parameter_groups`` gives them.
        terms: Names of the losses, in the order of the row.
        ranks: The ranks that the gradients are averaged over.
    """

    def __init__(self, groups: list[dict[str, Any]], terms: Sequence[str], ranks: Ranks) -> None:
        self._ranks = ranks
        # A scheme that starts at its optimum has a first gradient of mere rounding: a smaller eps makes a whole step of
        # it, another one for each number of ranks. Only the fused optimizer can skip a step on the device.
        self.optimizer = torch.optim.Adam(groups, lr=0.01, eps=1e-4, fused=True)
        self.optimizer.zero_grad()
        self._parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self._non_finite = torch.zeros(
            1, device=self._parameters[0].device
        )  # totals since the step that are not finite
        self._stepped_at = -1
        self._terms = list(terms)

    def load_state_dict(self, state: dict[str, Any], terms: Sequence[str]) -> None:
        """Restores the state of an optimizer of the same terms, whose order may have been another one."""
        indices = [terms.index(term) for term in self._terms]

        def bring_in_order(value: Tensor) -> Tensor:
            return value[indices] if value.shape[:1] == (len(indices),) else value

        self.optimizer.load_state_dict(tree_map_only(Tensor, bring_in_order, state))

    def observe_total(self, total: Tensor) -> None:
        """Records whether the total of a batch is finite."""
        self._non_finite = self._non_finite + ~total.detach().isfinite()

    def step(self, global_step: int, scaler: Any) -> None:
        """Updates the parameters by the gradients accumulated since the last step, once for each ``global_step``."""
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if global_step == self._stepped_at or not grads:  # LBFGS comes here several times in one step
            return
        self._stepped_at = global_step
        sums = self._ranks.sum(torch.cat([grad.flatten() for grad in grads] + [self._non_finite]))
        *means, _ = (sums / self._factor(scaler)).split([grad.numel() for grad in grads] + [1])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))
        skip = (sums[-1] > 0) | ~sums.isfinite().all()
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # as GradScaler sets it
        self.optimizer.step()
        self._non_finite = torch.zeros_like(self._non_finite)

    def _factor(self, scaler: Any) -> Tensor:
        """Returns the divisor of the sums of the gradients over ranks."""
        ranks = torch.full_like(self._non_finite, self._ranks.size)
        return ranks if scaler is None else scaler.scale(ranks)
