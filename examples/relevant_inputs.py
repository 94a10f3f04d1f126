"""Relevant inputs of a table: the lasso and the group lasso, by proximal steps.

    python examples/relevant_inputs.py

Ten measurements of 442 patients predict how diabetes progresses in a year (Efron et al. 2004, in scikit-learn). Ten
columns of noise are added, so that it is known which inputs are of no use. A linear model with an L1 penalty gets
exactly the zeros of the lasso. A network with a hidden layer sees nonlinear effects too; a group lasso on its first
layer removes whole inputs.
"""

import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from lossbalance import WeightedLoss
from lossbalance.penalties import L1, GroupLasso, Penalty
from lossbalance.weighting import Equal


def load(noise: int = 10) -> tuple[Tensor, Tensor, list[str]]:
    """Returns standardized inputs ``[rows, inputs]``, the standardized target ``[rows, 1]``, and names."""
    table = load_diabetes(scaled=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor(table.data, dtype=torch.float32)
    x = torch.cat([x, torch.randn(len(x), noise, generator=generator)], dim=1)
    y = torch.tensor(table.target, dtype=torch.float32).unsqueeze(1)
    names = [*table.feature_names, *(f"noise{i}" for i in range(noise))]
    return (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0), names


def train(net: nn.Module, penalty: Penalty, x: Tensor, y: Tensor, steps: int, lr: float) -> None:
    """Makes proximal gradient steps on half the mean squared error of all rows."""
    criterion = WeightedLoss(Equal(["squares"]), penalties={"sparse": penalty})
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    criterion.attach(optimizer, net)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion({"squares": (net(x) - y).square().mean() / 2}, module=net).backward()
        optimizer.step()


def relevant(weight: Tensor, names: list[str]) -> list[str]:
    """Returns the names of the inputs that have a weight other than zero."""
    return [name for name, column in zip(names, weight.T, strict=True) if (column != 0).any()]


def main() -> dict[str, list[str]]:
    """Prints and returns the relevant inputs of both models."""
    torch.manual_seed(0)
    x, y, names = load()

    linear = nn.Linear(len(names), 1)
    train(linear, L1(0.1, mode="proximal"), x, y, steps=300, lr=0.2)
    lasso = Lasso(alpha=0.1).fit(x.numpy(), y.numpy().ravel())
    found = {"linear model, L1": relevant(linear.weight, names)}
    found["lasso of scikit-learn"] = relevant(torch.tensor(lasso.coef_).unsqueeze(0), names)

    net = nn.Sequential(nn.Linear(len(names), 16), nn.Tanh(), nn.Linear(16, 1))
    train(net, GroupLasso(0.02, "input", include=r"^0\.weight", mode="proximal"), x, y, steps=600, lr=0.2)
    found["network, group lasso"] = relevant(net[0].weight, names)

    for model, inputs in found.items():
        print(f"{model}: {', '.join(inputs)}")
    return found


if __name__ == "__main__":
    main()
