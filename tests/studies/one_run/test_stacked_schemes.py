from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear, mse_loss

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, Fixed, GradBalance
from studies.one_run.multitask import Heads, MultiTaskNet
from studies.one_run.optimizers import OPTIMIZERS
from studies.one_run.schemes import SCHEMES
from studies.one_run.stacked_schemes import StackedGradBalance, StackedWeights, draw_batches, train
from studies.one_run.tables import Target

ROWS, STEPS, LR = 60, 30, 0.01
RATES = torch.tensor([1e-3, 1e-3, 3e-3, 1e-2])
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


def train_one(scheme, batches, kind="adam", rate=LR, **scale):
    """Trains a network by itself, as a user of the library would."""
    net, criterion = make_net(), WeightedLoss(scheme, **scale)
    groups = [{"params": net.parameters()}, *criterion.parameter_groups()]
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}
    optimizer = make[kind.partition("_")[0]](groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    widths = [target.outputs for target in TARGETS]
    for rows in batches:
        hidden = net.trunk(INPUTS[rows])
        heads = zip(TERMS, net.head.weight.split(widths), net.head.bias.split(widths), strict=True)
        outputs = {term: linear(criterion.probe(term, hidden), *head) for term, *head in heads}
        optimizer.zero_grad()
        criterion(compute_losses(outputs, LABELS[rows])).backward()
        if kind.endswith("_clipped"):
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if kind.endswith("_cosine"):
            schedule.step()
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def pick_copy(parameters, i):
    return {name: parameter[i] for name, parameter in parameters.items()}


def test_each_copy_trains_as_it_would_by_itself_with_the_library():
    names = sorted(SCHEMES, key=lambda name: SCHEMES[name](TERMS).uses_gradients)
    makers = [lambda: Equal(TERMS), lambda: Fixed(TERMS, WEIGHTS), *(partial(SCHEMES[name], TERMS) for name in names)]
    copies = [(maker, scale) for maker in makers for scale in ("own", "loss_sum")]
    batches = draw_batches(torch.arange(ROWS), 16, STEPS, seed=1)
    fixed = torch.tensor([[1.0] * 4, list(WEIGHTS.values())]).repeat_interleave(2, dim=0)

    weights = StackedWeights(fixed, [maker() for maker, _ in copies[4:]], [scale for _, scale in copies])
    (trained,) = train(
        make_net(), Heads(TARGETS), INPUTS, LABELS, weights, batches, "adam", torch.full((len(copies),), LR), {STEPS}
    )

    for i, (maker, scale) in enumerate(copies):
        alone = train_one(maker(), batches, **({} if scale == "own" else {scale: 4.0}))
        message = f"{makers[i // 2]} {scale}: {{}}".format
        torch.testing.assert_close(pick_copy(trained, i), alone, rtol=1e-4, atol=2e-5, msg=message)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_copies_with_ratios_train_as_they_would_by_themselves_under_each_optimizer(optimizer):
    ratios = [[1.0, 1.0, 1.0, 1.0], [1.0, 4.0, 2.0, 1.0], [1.0, 4.0, 2.0, 1.0]]
    scales = [{}, {"loss_sum": 4.0}, {"weight_sum": 4.0}]
    names = ["own", *(next(iter(scale), "own") for scale in scales)]
    batches = draw_batches(torch.arange(ROWS), 16, STEPS, seed=1)

    weights = StackedWeights(torch.ones(1, 4), [], names, StackedGradBalance(torch.tensor(ratios)))
    (trained,) = train(make_net(), Heads(TARGETS), INPUTS, LABELS, weights, batches, optimizer, RATES, {STEPS})

    for i, (row, scale) in enumerate(zip(ratios, scales, strict=True), start=1):
        scheme = GradBalance(TERMS, dict(zip(TERMS, row, strict=True)))
        alone = train_one(scheme, batches, optimizer, RATES[i].item(), **scale)
        torch.testing.assert_close(pick_copy(trained, i), alone, rtol=1e-3, atol=2e-5)
