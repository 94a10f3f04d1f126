"""Learning rate annealing for physics-informed networks: gradients scaled to the first term's."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_choice, check_decay
from lossbalance.weighting.averages import set_where
from lossbalance.weighting.base import Observation, Weighting, weighted_sum

_MOST = 5.0  # times the ratio of the last gradients


class LRAnnealing(Weighting):
    r"""Brings the gradient of every other term to the size of the first one's.

    Made for physics-informed networks, where the first term is the residual, of weight 1, and the others are boundary
    and initial conditions. With :math:`g_i` the gradient of the unweighted loss at the probes of its term, the total is

    .. math:: T = L_1 + \sum_{i > 1} \lambda_i L_i, \qquad
              \lambda_i \leftarrow \beta \lambda_i + (1 - \beta) \hat\lambda_i.

    ==============  ============================================================  ======================================
    ``statistic``   :math:`\hat\lambda_i`                                         from
    ==============  ============================================================  ======================================
    ``max_mean``    :math:`\max |g_1| \,/\, \operatorname{mean} |g_i|`            Wang et al. (2021)
    ``norm``        :math:`\lVert g_1 \rVert \,/\, \lVert g_i \rVert`             Wang et al. (2023)
    ==============  ============================================================  ======================================

    Maximum and mean are taken over the entries of the gradient by the parameters in the paper: mark them by
    ``WeightedLoss.probe_parameters``. The first time that a term is seen, its weight starts at the ratio itself; in the
    paper all start at 1. In a step without the first term its last gradient is the reference.

    No weight exceeds five times the ratio of the last gradients, so a term that starts at its minimum up to rounding
    gets no more than five times the first one's gradient. A term that comes back after a step with hardly any gradient
    may exceed it more, for the one step before its gradient is known at the probes: by :math:`1 - \beta` times what
    its gradient grew by.

    Where u = 0 solves the boundary, its gradient fades and :math:`\lambda` runs away: on the Helmholtz equation
    ``max_mean`` ended at u = 0 with all of three seeds, ``norm`` with one (``scripts/study.py pinn``).

    In later work the authors divide the sum of the norms of all terms by each; that is :math:`\hat\lambda_i` of
    ``norm`` but for a factor that all terms share, the first one's too.

    Args:
        terms: Names of the losses, in the order of the row; the first is the reference.
        decay: :math:`\beta`, in [0, 1).
        statistic: ``"max_mean"`` or ``"norm"``.

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``decay`` is not a number.
        ValueError: If ``decay`` is not in [0, 1), or ``statistic`` is not a known choice.

    Source:
        Wang, Teng and Perdikaris (2021), "Understanding and mitigating gradient flow pathologies in physics-informed
        neural networks", equations 11 to 13 and algorithm 1, https://arxiv.org/abs/2001.04536; Wang, Sankaran, Wang and
        Perdikaris (2023), "An Expert's Guide to Training Physics-informed Neural Networks", algorithm 1,
        https://arxiv.org/abs/2308.08468

    Example:
        >>> scheme = LRAnnealing(["residual", "boundary"], statistic="norm")
        >>> total, weights = scheme(torch.tensor([1.0, 1.0]), norms=torch.tensor([50.0, 2.0]))
        >>> weights.tolist()
        [1.0, 25.0]
    """

    uses_gradients = True
    first_term_leads = True
    weight: Tensor
    gain: Tensor
    reference: Tensor
    _gain: Tensor

    def __init__(self, terms: Iterable[str], decay: float = 0.9, statistic: str = "max_mean") -> None:
        super().__init__(terms)
        self.decay = check_decay("decay", decay)
        self.statistic = check_choice("statistic", statistic, ["max_mean", "norm"])
        self.uses_magnitudes = self.statistic == "max_mean"  # type: ignore[misc]
        self.register_buffer("weight", torch.ones(len(self.terms)))  # lambda
        others = (torch.arange(len(self.terms)) > 0).float()
        self.register_buffer("gain", others)  # 1 - beta once the term was seen; 0 for the first
        self.register_buffer("_gain", (1 - self.decay) * others, persistent=False)
        self.register_buffer("reference", torch.tensor(torch.nan))  # the first one's size when it was last seen

    def observe(self, observation: Observation) -> None:
        """Moves the weight of each term that was seen towards the ratio of the gradients."""
        ratio = self._ratio(observation)
        moves = ratio < torch.inf
        target = torch.where(moves, ratio, self.weight)
        torch.minimum(torch.lerp(self.weight, target, self.gain), target * _MOST, out=self.weight)
        set_where(self.gain, moves, self._gain)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs the first loss by 1 and each other by its lambda."""
        return weighted_sum(losses, self.weight, present)

    def _ratio(self, observation: Observation) -> Tensor:
        """Returns the ratios ``[terms]``; nan or inf where one of the two gradients was never seen."""
        first, sizes = observation.norms, observation.norms
        if self.uses_magnitudes:
            if observation.largest is None or observation.mean_magnitude is None:
                raise ValueError(
                    "`largest` and `mean_magnitude` must be given for statistic='max_mean', got None: give them, or "
                    "make the scheme with statistic='norm'."
                )
            first, sizes = observation.largest, observation.mean_magnitude
        set_where(self.reference, observation.seen[0], first[0])
        return (self.reference / sizes).to(self.weight.dtype)
