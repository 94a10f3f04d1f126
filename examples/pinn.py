"""A physics-informed network: residual and boundary have forward passes of their own, measured at the parameters.

u'' + 16 u = 0 on [0, 1], u(0) = 1, u'(0) = 0; the solution is cos(4 x).

python examples/pinn.py
"""

import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import GradBalance


def derivative(u: Tensor, x: Tensor) -> Tensor:
    """Differentiates ``u`` by ``x``, pointwise."""
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def main(steps: int = 1000) -> float:
    """Trains, prints the weights, and returns the relative L2 error."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    criterion = WeightedLoss(GradBalance(["residual", "boundary"]))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    # Each term sees the parameters through probes of its own, so one backward pass measures both gradients.
    net_residual = criterion.probe_parameters("residual", net)
    net_boundary = criterion.probe_parameters("boundary", net)

    for _ in range(steps):
        x = torch.rand(128, 1, requires_grad=True)
        u = net_residual(x)
        residual = (derivative(derivative(u, x), x) + 16 * u).square().mean()
        start = torch.zeros(1, 1, requires_grad=True)
        u0 = net_boundary(start)
        boundary = (u0 - 1).square().mean() + derivative(u0, start).square().mean()
        optimizer.zero_grad()
        criterion({"residual": residual, "boundary": boundary}).backward()
        optimizer.step()

    grid = torch.linspace(0, 1, 201).unsqueeze(1)
    solution = (4 * grid).cos()
    with torch.no_grad():
        error = ((net(grid) - solution).norm() / solution.norm()).item()
    weights = ", ".join(f"{term} {weight:.3g}" for term, weight in criterion.weights.items())
    print(f"relative L2 error {error:.3g}, weights: {weights}")
    return error


if __name__ == "__main__":
    main()
