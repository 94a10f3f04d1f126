"""NTK weighting: equal rates of decrease by the trace of the neural tangent kernel."""

from collections.abc import Iterable

from torch import Tensor

from lossbalance._utils.checks import check_decay
from lossbalance.weighting.averages import limit_average, move_average, read_average, start_average
from lossbalance.weighting.base import Observation, weighted_sum
from lossbalance.weighting.positive import PositiveWeighting


class NTK(PositiveWeighting):
    r"""Weighs each loss by the trace of the whole tangent kernel over that of its own.

    A loss :math:`L_i = \frac{1}{N} \sum_k r_k^2` with residuals of Jacobian :math:`J_i` falls, under gradient flow, at
    a pace that the eigenvalues of its tangent kernel :math:`K_i = J_i J_i^\top` set. The paper gives all terms the
    same mean eigenvalue:

    .. math:: T = \sum_i w_i L_i, \qquad w_i = \frac{\sum_j \operatorname{tr} K_j}{\operatorname{tr} K_i}.

    **What is approximated.** The trace takes a backward pass per sample. Here the mean eigenvalue is replaced by the
    Rayleigh quotient of the residuals, which the one backward pass has already: with :math:`n_i` the norm of the
    gradient of the unweighted loss by the parameters,

    .. math:: \frac{n_i^2}{L_i} = \frac4N \, \frac{r^\top K_i \, r}{r^\top r} \approx \frac4N \,
              \frac{\operatorname{tr} K_i}{N}, \qquad
              w_i = \frac{\sum_j q_j}{q_i}, \quad q_i \text{ a running average of } \frac{n_i^2}{L_i}.

    It is exact where the residuals have no preferred direction, as in the mean over their signs. In training it is the
    rate at which the term's own gradient flow lowers it now, :math:`-\dot L_i / L_i = n_i^2 / L_i` exactly: large
    eigenvalues are solved first, and then the quotient falls below the trace. With means over different numbers of
    samples N it balances these rates, where the trace would be that of sums.

    No average is below a tenth of the last rate, so a term that starts at its minimum up to rounding, and comes back,
    gets at most ten times its weight.

    The rest is as published: the sum includes the term itself, so all weights are above 1. Place the probes at the
    parameters (``WeightedLoss.probe_parameters``); at an activation it is the kernel of what lies below the loss and
    above the activation.

    Args:
        terms: Names of the losses, in the order of the row.
        decay: How much of the running average stays from step to step, in [0, 1).

    Shape:
        ``losses`` and ``weights`` are ``[terms]``; ``total`` is ``[]``.

    Raises:
        TypeError: If ``decay`` is not a number.
        ValueError: If ``decay`` is not in [0, 1). In training, if a loss is not above 0; :class:`PositiveWeighting`
            says when. Until then such a loss counts as not seen.

    Source:
        Wang, Yu and Perdikaris (2022), "When and why PINNs fail to train: A neural tangent kernel perspective",
        algorithm 1, https://arxiv.org/abs/2007.14527

    Example:
        >>> import torch
        >>> scheme = NTK(["residual", "boundary"])
        >>> total, weights = scheme(torch.tensor([1.0, 4.0]), norms=torch.tensor([3.0, 2.0]))
        >>> weights  # rates 9 and 1
        tensor([ 1.1111, 10.0000])
    """

    uses_gradients = True
    average: Tensor

    def __init__(self, terms: Iterable[str], decay: float = 0.9) -> None:
        super().__init__(terms)
        self.decay = check_decay("decay", decay)
        self.register_buffer("average", start_average(len(self.terms)))  # q

    def observe(self, observation: Observation) -> None:
        """Moves the average of each term that was seen towards its rate."""
        seen = self.find_positive(observation)
        rate = observation.norms.square() / observation.losses
        move_average(self.average, rate, seen, self.decay)
        limit_average(self.average, rate, seen, self.decay)

    def weigh(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weighs each loss by the sum of the rates over its own; by 1 as long as that is unknown."""
        rate = read_average(self.average)
        weights = (rate.nansum() / rate).nan_to_num(1.0, 1.0)
        return weighted_sum(losses, weights, present)
