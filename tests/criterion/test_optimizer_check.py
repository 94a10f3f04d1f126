"""An optimizer that does not train learned weights as it should is refused by name."""

import re

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal, GradBalance, Uncertainty

CURE = re.escape("put `*criterion.parameter_groups()` into the optimizer, and only there.")


def learned():
    return WeightedLoss(Uncertainty(["aux", "main"]))


def test_groups_made_by_the_criterion_pass_in_one_optimizer_or_several():
    criterion, net = learned(), nn.Linear(2, 1)
    optimizer = torch.optim.AdamW([{"params": net.parameters()}, *criterion.parameter_groups()], weight_decay=0.1)
    criterion.check(optimizer)
    criterion.check([torch.optim.AdamW(net.parameters()), torch.optim.Adam(criterion.parameter_groups())])


@pytest.mark.parametrize("scheme", [Equal, GradBalance])
def test_a_scheme_that_learns_nothing_passes(scheme):
    WeightedLoss(scheme(["aux", "main"])).check(torch.optim.AdamW(nn.Linear(2, 1).parameters()))


def test_a_weight_in_no_group_is_refused():
    with pytest.raises(ValueError, match=r"\['aux', 'main'\] will never move, .*`Uncertainty.log_variance` .*" + CURE):
        learned().check(torch.optim.Adam(nn.Linear(2, 1).parameters()))


def test_a_weight_in_two_groups_is_refused():
    criterion = learned()
    twice = [torch.optim.Adam(criterion.parameter_groups()), torch.optim.SGD(criterion.parameters(), lr=0.1)]
    with pytest.raises(ValueError, match=r"are updated 2 times a step, .* is in 2 groups: " + CURE):
        criterion.check(twice)


def test_a_weight_under_decay_is_refused():
    criterion = learned()
    with pytest.raises(ValueError, match=r"are biased, for `Uncertainty.log_variance` is under a weight decay of 0.01"):
        criterion.check(torch.optim.AdamW(criterion.parameters()))


def test_a_weight_that_the_user_froze_may_be_left_out():
    criterion = learned().requires_grad_(False)
    criterion.check(torch.optim.Adam(nn.Linear(2, 1).parameters()))


@pytest.mark.parametrize("wrong", [None, nn.Linear(2, 1), [1]])
def test_what_is_no_optimizer_is_refused(wrong):
    with pytest.raises(TypeError, match="`optimizer` must be an optimizer or a list of optimizers, got"):
        learned().check(wrong)
