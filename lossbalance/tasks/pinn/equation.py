"""The differential equation that the network solves."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lossbalance._utils.checks import check_number

Network = Callable[[Tensor], Tensor]


class Helmholtz:
    r"""The Helmholtz equation on the square :math:`[-1, 1]^2`, with a known solution:

    .. math:: \Delta u + k^2 u = q, \qquad u = \sin(a_1 \pi x) \sin(a_2 \pi y), \qquad u = 0 \text{ on the boundary}.

    The trivial solution :math:`u = 0` solves the boundary condition; its relative error is 1.

    Args:
        waves: :math:`a_1` and :math:`a_2`, whole numbers, so that the solution vanishes on the boundary.
        k: The wave number of the equation.

    Raises:
        ValueError: If there are not two waves, or one is not whole.

    Source:
        Wang, Teng and Perdikaris (2021), "Understanding and mitigating gradient flow pathologies in physics-informed
        neural networks", section 3.3, https://arxiv.org/abs/2001.04536
    """

    def __init__(self, waves: tuple[float, float] = (1, 4), k: float = 1.0) -> None:
        kind = "a whole number, for the solution to vanish on the boundary"
        self.waves = [check_number("waves", wave, kind, lambda number: number == round(number)) for wave in waves]
        if len(self.waves) != 2:
            raise ValueError(f"`waves` must be two numbers, one for each dimension, got {list(waves)}.")
        self.k = check_number("k", k, "a finite number", math.isfinite)

    def solution(self, x: Tensor) -> Tensor:
        """Returns u ``[points]`` at ``x`` ``[points, 2]``."""
        return (x * (math.pi * x.new_tensor(self.waves))).sin().prod(dim=1)

    def source(self, x: Tensor) -> Tensor:
        """Returns q ``[points]``."""
        curvature = -(math.pi**2) * sum(wave**2 for wave in self.waves)
        return (curvature + self.k**2) * self.solution(x)

    def residual(self, network: Network, x: Tensor) -> Tensor:
        """Returns the mean square ``[]`` of what is left of the equation at points inside, differentiable.

        Args:
            network: Maps points ``[points, 2]`` to ``[points]``.
            x: The points.
        """
        x = x.detach().clone().requires_grad_()
        u = network(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        laplacian = torch.zeros_like(u)
        for i in range(2):
            (second,) = torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)
            laplacian = laplacian + second[:, i]
        return (laplacian + self.k**2 * u - self.source(x)).square().mean()

    def boundary(self, network: Network, x: Tensor) -> Tensor:
        """Returns the mean square ``[]`` of u at points on the boundary."""
        return network(x).square().mean()
