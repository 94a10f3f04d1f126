"""Several tasks, labels missing: a task that a batch has no label for is None, weighs nothing and moves no state.

python examples/missing_labels.py
"""

import torch
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Uncertainty

TASKS = ["solubility", "toxicity", "charge"]


def masked_mean(per_sample: Tensor, known: Tensor) -> Tensor | None:
    """Averages over the samples that have a label; None where no sample has one."""
    return per_sample[known].mean() if known.any() else None


def main(steps: int = 1000) -> dict[str, float]:
    """Trains, and prints and returns the unexplained parts."""
    torch.manual_seed(0)
    x = torch.randn(512, 12)
    labels = torch.stack([x[:, :4].sum(1), 5 * x[:, 4:8].sum(1), 0.2 * x[:, 8:].sum(1)], dim=1)
    known = torch.rand(labels.shape) > 0.8
    labels[~known] = 0.0  # any number but nan, whose gradient would be nan even where nothing looks at it

    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, len(TASKS)))
    criterion = WeightedLoss(Uncertainty(TASKS))
    groups = [{"params": list(net.parameters())}, *criterion.parameter_groups()]
    optimizer = torch.optim.Adam(groups, lr=3e-3)

    for _ in range(steps):
        rows = torch.randint(len(x), (16,))  # so small a batch may lack all labels of a task
        errors = (net(x[rows]) - labels[rows]).square()
        losses = {task: masked_mean(errors[:, i], known[rows, i]) for i, task in enumerate(TASKS)}
        optimizer.zero_grad()
        criterion(losses).backward()
        optimizer.step()

    unexplained = {}
    for i, task in enumerate(TASKS):
        label = labels[known[:, i], i]
        unexplained[task] = ((net(x)[known[:, i], i] - label).var() / label.var()).item()
        print(f"{task:>10}  variance of the labels {label.var():.3g}, of which unexplained {unexplained[task]:.1%}")
    return unexplained


if __name__ == "__main__":
    main()
