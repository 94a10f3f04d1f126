import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lossbalance import WeightedLoss
from lossbalance.penalties import L2
from lossbalance.weighting import Equal
from studies.width_transfer.stack import MOMENTUM, StackedL2, evaluate, train

STEPS, LR = 30, 0.1
torch.manual_seed(0)
IMAGES, LABELS = torch.randn(40, 6), torch.randint(3, (40,))


def make_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def train_one(penalty):
    """Trains a network by itself, as a user of the library would."""
    net = make_net()
    criterion = WeightedLoss(Equal(["data"]), penalties={"l2": penalty})
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
    criterion.attach(optimizer, net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2)
    reports = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion({"data": cross_entropy(net(IMAGES), LABELS)}, module=net).backward()
        reports.append(criterion.report_penalties()["l2"])
        optimizer.step()
        schedule.step()
    return net, reports


@pytest.mark.parametrize("normalization", ["sum", "mean", "tensor_mean", "fan", "share"])
def test_each_copy_trains_as_it_would_by_itself(normalization):
    strengths = torch.tensor([0.01, 0.1, 0.5])
    net = make_net()

    trained = train(net, StackedL2(net, normalization, strengths), IMAGES, LABELS, STEPS, LR)

    for i, strength in enumerate(strengths.tolist()):
        settings = {"share": strength} if normalization == "share" else {"strength": strength}
        alone, reports = train_one(L2(**settings, normalization=normalization.replace("share", "sum"), mode="gradient"))
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(trained.parameters[name][i], parameter.detach(), rtol=1e-4, atol=1e-5)
        if normalization != "share":  # its report is made before the step that moves the strength
            mean = torch.stack([report.value_share for report in reports]).mean()
            torch.testing.assert_close(trained.value_share[i], mean, rtol=1e-4, atol=1e-6)
            mean = torch.stack([report.gradient_share for report in reports]).mean()
            torch.testing.assert_close(trained.gradient_share[i], mean, rtol=1e-4, atol=1e-6)


def test_a_copy_that_diverges_leaves_the_others_alone():
    net = make_net()
    both = train(net, StackedL2(net, "sum", torch.tensor([1e-3, 1e6])), IMAGES, LABELS, STEPS, LR)
    alone = train(net, StackedL2(net, "sum", torch.tensor([1e-3])), IMAGES, LABELS, STEPS, LR)

    loss, _ = evaluate(net, both.parameters, IMAGES, LABELS)
    assert loss.isfinite().tolist() == [True, False]
    torch.testing.assert_close(loss[:1], evaluate(net, alone.parameters, IMAGES, LABELS)[0])


def test_copies_are_evaluated_one_by_one():
    net = make_net()
    trained = train(net, StackedL2(net, "sum", torch.tensor([0.0, 0.3])), IMAGES, LABELS, STEPS, LR)

    losses, accuracies = evaluate(net, trained.parameters, IMAGES, LABELS)

    for i in range(2):
        net.load_state_dict({name: parameter[i] for name, parameter in trained.parameters.items()})
        outputs = net(IMAGES)
        torch.testing.assert_close(losses[i], cross_entropy(outputs, LABELS).detach())
        torch.testing.assert_close(accuracies[i], (outputs.argmax(1) == LABELS).float().mean())
