"""The optimizer of what a scheme learns, beside the module's own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from lossbalance._utils.distributed import sum_over_ranks, world_size


class SchemeOptimizer:
    """Trains the parameters of a scheme, the same on every rank, and skips a step that is not finite.

    Args:
        groups: The parameters, as ``WeightedLoss.parameter_groups`` gives them.
        terms: Names of the losses, in the order of the row.
    """

    def __init__(self, groups: list[dict[str, Any]], terms: Sequence[str]) -> None:
        # A scheme that starts at its optimum has a first gradient of mere rounding: a smaller eps makes a whole step of
        # it, another one for each number of ranks. Only the fused optimizer can skip a step on the device.
        self.optimizer = torch.optim.Adam(groups, lr=0.01, eps=1e-4, fused=True)
        self.optimizer.zero_grad()
        self._parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self._broken = torch.zeros(1, device=self._parameters[0].device)  # totals since the step that are not finite
        self._stepped_at = -1
        self._terms = list(terms)

    def load_state_dict(self, state: dict[str, Any], terms: Sequence[str]) -> None:
        """Takes up the state of an optimizer of the same terms, whose order may have been another one."""
        places = [terms.index(term) for term in self._terms]

        def bring_in_order(value: Tensor) -> Tensor:
            return value[places] if value.shape[:1] == (len(places),) else value

        self.optimizer.load_state_dict(tree_map_only(Tensor, bring_in_order, state))

    def note(self, total: Tensor) -> None:
        """Takes notice of the total of a batch."""
        self._broken = self._broken + ~total.detach().isfinite()

    def step(self, global_step: int, scaler: Any) -> None:
        """Moves the parameters by what the batches since the last step have left, once for each ``global_step``."""
        grads = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if global_step == self._stepped_at or not grads:  # LBFGS comes here several times in one step
            return
        self._stepped_at = global_step
        sums = sum_over_ranks(torch.cat([grad.flatten() for grad in grads] + [self._broken]))
        *means, _ = (sums / self._factor(scaler)).split([grad.numel() for grad in grads] + [1])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))
        skip = (sums[-1] > 0) | ~sums.isfinite().all()
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # as GradScaler tells it
        self.optimizer.step()
        self._broken = torch.zeros_like(self._broken)

    def _factor(self, scaler: Any) -> Tensor:
        """Returns what the sums of the gradients over ranks are to be divided by."""
        ranks = torch.full_like(self._broken, world_size())
        return ranks if scaler is None else scaler.scale(ranks)
