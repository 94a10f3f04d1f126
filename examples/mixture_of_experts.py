"""A small mixture of experts: the router's balancing loss gets one percent of the gradient at the router's input.

python examples/mixture_of_experts.py
"""

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import GradBalance

EXPERTS = 4


def main(steps: int = 400) -> dict[str, float]:
    """Trains, prints how the experts are used, and returns the shares of the gradient."""
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = torch.where(x[:, :1] > 0, x[:, 1:2] * 3, x[:, 2:3].sin())

    trunk, router = nn.Sequential(nn.Linear(8, 32), nn.ReLU()), nn.Linear(32, EXPERTS)
    experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(EXPERTS))
    criterion = WeightedLoss(GradBalance(["router", "main"], ratios={"router": 1, "main": 99}))
    networks = nn.ModuleList([trunk, router, experts])
    optimizer = torch.optim.Adam(networks.parameters(), lr=3e-3)

    for _ in range(steps):
        h = trunk(x)
        gates = router(criterion.probe("main", h)).softmax(dim=1)
        outputs = torch.cat([expert(criterion.probe("main", h)) for expert in experts], dim=1)
        main = ((gates * outputs).sum(dim=1, keepdim=True) - y).square().mean()
        usage = router(criterion.probe("router", h)).softmax(dim=1).mean(dim=0)
        balance = EXPERTS * usage.square().sum()  # 1 where all experts are used alike
        optimizer.zero_grad()
        criterion({"router": balance, "main": main}).backward()
        optimizer.step()

    shares = {term: share.item() for term, share in criterion.last.gradient_shares.items()}
    print(f"usage of the experts: {[round(part, 2) for part in usage.tolist()]}")
    print(f"loss {main.item():.3g}, the router's share of the gradient {shares['router']:.1%}")
    return shares


if __name__ == "__main__":
    main()
