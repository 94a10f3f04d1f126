from functools import partial

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, mse_loss

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Fixed
from studies.multitask import Heads, MultiTaskNet
from studies.one_run_schemes import SCHEMES
from studies.stacked_schemes import StackedWeights, draw_batches, train
from studies.tables import Target

ROWS, STEPS, LR = 60, 30, 0.01
generator = np.random.default_rng(0)
INPUTS = torch.as_tensor(generator.normal(size=(ROWS, 4)), dtype=torch.float32)
TARGETS = (
    Target("large", "number", 100 + 50 * generator.normal(size=(ROWS, 1))),
    Target("pair", "number", 0.1 * generator.normal(size=(ROWS, 2))),
    Target("class", "class", np.arange(ROWS)[:, None] % 3.0),
    Target("answer", "yes_no", np.where(np.arange(ROWS) % 5, np.arange(ROWS) % 2.0, np.nan)[:, None]),
)
TERMS = [target.name for target in TARGETS]
LABELS = torch.as_tensor(np.concatenate([target.values for target in TARGETS], axis=1), dtype=torch.float32)
WEIGHTS = {"large": 0.001, "pair": 10.0, "class": 1.0, "answer": 2.0}


def make_net():
    torch.manual_seed(0)
    return MultiTaskNet(4, 8, sum(target.outputs for target in TARGETS))


def compute_losses(outputs, labels):
    """Computes the losses by torch's own functions; ``outputs`` are one a term."""
    known = ~labels[:, 4].isnan()
    return {
        "large": mse_loss(outputs["large"].squeeze(1), labels[:, 0]),
        "pair": mse_loss(outputs["pair"], labels[:, 1:3]) * 2,  # a sum over the columns
        "class": cross_entropy(outputs["class"], labels[:, 3].long()),
        "answer": binary_cross_entropy_with_logits(outputs["answer"].squeeze(1)[known], labels[known, 4]),
    }


def train_one(scheme, loss_sum, batches):
    """Trains a network by itself, as a user of the library would."""
    net, criterion = make_net(), WeightedLoss(scheme, loss_sum=loss_sum)
    optimizer = torch.optim.Adam([{"params": net.parameters()}, *criterion.parameter_groups()], lr=LR)
    widths = [target.outputs for target in TARGETS]
    for rows in batches:
        hidden = net.trunk(INPUTS[rows])
        heads = zip(TERMS, net.head.weight.split(widths), net.head.bias.split(widths), strict=True)
        outputs = {term: linear(criterion.probe(term, hidden), *head) for term, *head in heads}
        optimizer.zero_grad()
        criterion(compute_losses(outputs, LABELS[rows])).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def test_each_copy_trains_as_it_would_by_itself_with_the_library():
    names = sorted(SCHEMES, key=lambda name: SCHEMES[name](TERMS).uses_gradients)
    makers = [lambda: Equal(TERMS), lambda: Fixed(TERMS, WEIGHTS), *(partial(SCHEMES[name], TERMS) for name in names)]
    makers = [maker for maker in makers for _ in range(2)]
    matched = [False, True] * (len(names) + 2)
    batches = list(draw_batches(torch.arange(ROWS), 16, STEPS, seed=1))
    fixed = torch.tensor([[1.0] * 4, list(WEIGHTS.values())]).repeat_interleave(2, dim=0)

    weights = StackedWeights(fixed, [maker() for maker in makers[4:]], matched)
    (trained,) = train(make_net(), Heads(TARGETS), INPUTS, LABELS, weights, batches, LR, {STEPS})

    for i, (maker, is_matched) in enumerate(zip(makers, matched, strict=True)):
        alone = train_one(maker(), 4.0 if is_matched else None, batches)
        stacked = {name: parameter[i] for name, parameter in trained.items()}
        torch.testing.assert_close(stacked, alone, rtol=1e-4, atol=2e-5, msg=lambda m, i=i: f"{makers[i]}: {m}")
