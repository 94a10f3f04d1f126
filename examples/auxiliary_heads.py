"""An auxiliary head beside the main one: each gets its ratio of the gradient.

python examples/auxiliary_heads.py
"""

import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import GradBalance


def main(steps: int = 300) -> dict[str, float]:
    """Trains, prints what each term weighed, and returns the last losses."""
    torch.manual_seed(0)
    x = torch.randn(256, 10)
    target = (x[:, :3].prod(dim=1) > 0).float()  # what the main head classifies
    sensors = 500 * x.cumsum(dim=1)  # what the auxiliary head regresses, in raw units

    trunk = nn.Sequential(nn.Linear(10, 32), nn.Tanh())
    aux_head, main_head = nn.Linear(32, 10), nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    criterion = WeightedLoss(GradBalance(["aux", "main"], ratios={"aux": 1, "main": 4}))
    criterion.probe_inputs({"aux": aux_head, "main": main_head})  # the gradient is measured where the heads begin
    networks = nn.ModuleList([trunk, aux_head, main_head])
    optimizer = torch.optim.Adam(networks.parameters(), lr=3e-3)

    for _ in range(steps):
        h = trunk(x)
        aux = (aux_head(h) - sensors).square().mean()
        main = nn.functional.binary_cross_entropy_with_logits(main_head(h).squeeze(1), target)
        optimizer.zero_grad()
        criterion({"aux": aux, "main": main}).backward()
        optimizer.step()

    last = criterion.last
    for term in criterion.terms:
        print(f"{term:>5}  loss {last.losses[term]:.4g}  weight {last.weights[term]:.3g}", end="  ")
        print(f"share of the gradient {last.gradient_shares[term]:.0%}")
    return {term: loss.item() for term, loss in last.losses.items()}


if __name__ == "__main__":
    main()
