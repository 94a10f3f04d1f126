"""Whatever is wrong with what the library is given, one message names the argument, what must hold, and what came in.

A new case is one line: what is called, and how the message begins.
"""

import re

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, BalanceLosses
from lossbalance.conflict import CAGrad
from lossbalance.penalties import L1, L2, ElasticNet
from lossbalance.weighting import (
    DWA,
    Alpha,
    Constrained,
    Equal,
    Fixed,
    GradBalance,
    GradNorm,
    InverseLoss,
    LRAnnealing,
    Uncertainty,
    UncertaintySoftmax,
)

AB = ["a", "b"]
ONE = torch.tensor(1.0)


def criterion(scheme=None, **settings):
    return WeightedLoss(scheme or Equal(AB), **settings)


CASES = [
    (lambda: Equal("ab"), "`terms` must be a list of names, got the single string 'ab'"),
    (lambda: Equal([]), "`terms` must name at least one loss, got none"),
    (lambda: Equal(["a", "a"]), "`terms` must name each term once, got ['a'] more than once"),
    (lambda: Equal([1, 2]), "`terms` must be a list of names, got [1, 2]"),
    (lambda: Alpha(AB, 1.5), "`alpha` must be a number in [0, 1], got 1.5"),
    (lambda: Alpha(AB, float("nan")), "`alpha` must be a number in [0, 1], got nan"),
    (lambda: Alpha(AB, "0.5"), "`alpha` must be a number in [0, 1], got '0.5'"),
    (lambda: Alpha(AB, True), "`alpha` must be a number in [0, 1], got True"),
    (lambda: Alpha(["a"], 0.5), "`terms` must be at least two"),
    (lambda: Fixed(AB, {"a": 1}), "`weights` must name each term of ['a', 'b'] once: missing ['b']"),
    (lambda: Fixed(AB, {"a": 1, "b": -1}), "`weights['b']` must be a number, finite and not negative, got -1"),
    (lambda: Fixed(AB, [1, 2]), "`weights` must map each term of ['a', 'b'] to a number, got [1, 2]"),
    (lambda: Uncertainty(AB, likelihood="gausian"), "`likelihood` must be one of"),
    (lambda: Uncertainty(AB, likelihood={"a": "gaussian"}), "`likelihood` must name each term"),
    (lambda: Uncertainty(AB, regularizer="lgo"), "`regularizer` must be one of"),
    (lambda: Uncertainty(AB, initial_log_variance=float("inf")), "`initial_log_variance` must be"),
    (lambda: Uncertainty(AB, initial_log_variance="atuo"), "`initial_log_variance` must be"),
    (lambda: UncertaintySoftmax(AB, temperature=0), "`temperature` must be a positive, finite number, got 0"),
    (lambda: GradNorm(AB, restoring_force=-1), "`restoring_force` must be a number, finite and not negative, got -1"),
    (lambda: GradNorm(AB, restoring_force="1"), "`restoring_force` must be a number"),
    (lambda: GradNorm(AB, initial="blanced"), "`initial` must be one of"),
    (lambda: GradBalance(AB, decay=1), "`decay` must be a number in [0, 1), got 1"),
    (lambda: GradBalance(AB, ratios={"a": 0, "b": 1}), "`ratios['a']` must be a positive, finite number, got 0"),
    (lambda: GradBalance(AB, ratios={"a": 1, "c": 1}), "`ratios` must name each term"),
    (lambda: LRAnnealing(AB, decay=-0.1), "`decay` must be a number in [0, 1), got -0.1"),
    (lambda: LRAnnealing(AB, statistic="mean_max"), "`statistic` must be one of"),
    (lambda: InverseLoss(AB, exponent=float("nan")), "`exponent` must be"),
    (lambda: DWA(AB, temperature=0), "`temperature` must be"),
    (lambda: Constrained(AB, limits={"c": 1}), "`limits` must"),
    (lambda: CAGrad(c=-1), "`c` must be a number, 0 or more, got -1"),
    (lambda: L2(-1), "`strength` must be a number, finite and not negative"),
    (lambda: L2(float("inf")), "`strength` must be a number, finite and not negative"),
    (lambda: L2("1"), "`strength` must be a number, finite and not negative"),
    (lambda: L2(1, normalization="men"), "`normalization` must be one of"),
    (lambda: L2(1, mode="gradeint"), "`mode` must be one of"),
    (lambda: L2(share=0), "`share` must be a positive, finite number, got 0"),
    (lambda: L2(1, num_samples=0), "`num_samples` must be a positive, finite number, got 0"),
    (lambda: L1(1, include="nothing")(nn.Linear(2, 2)), "`include` must match parameters by name"),
    (lambda: L1(1, include="(")(nn.Linear(2, 2)), "`include`"),
    (lambda: ElasticNet(-1, 1), "`l1` must be a number, finite and not negative"),
    (lambda: criterion(weight_sum=0), "`weight_sum` must be a positive, finite number or None, got 0"),
    (lambda: criterion(loss_sum=-1), "`loss_sum` must be a positive, finite number or None, got -1"),
    (lambda: criterion()({"a": ONE}), "`losses` must name each term of ['a', 'b'] once: missing ['b']"),
    (lambda: criterion()({"a": ONE, "c": ONE}), "`losses` must name each term of ['a', 'b'] once: missing ['b']"),
    (lambda: criterion()([ONE, ONE]), "`losses` must"),
    (lambda: criterion()({"a": ONE, "b": 1.0}), "`losses['b']` must"),
    (lambda: criterion()({"a": ONE, "b": torch.ones(3)}), "`losses['b']` must"),
    (lambda: criterion().probe("c", torch.ones(2)), "`term` must be one of ['a', 'b'], got 'c'"),
    (lambda: criterion().set_factor("c", 1.0), "`name` must be one of ['a', 'b'], got 'c'"),
    (lambda: criterion().set_factor("a", -1.0), "`factor` must be"),
    (lambda: criterion(penalties={"l2": L2(1)})({"a": ONE, "b": ONE}), "`module` must be"),
    (lambda: BalanceLosses(3), "`criterion` must be"),
    (lambda: AlphaSchedule([[0, 2.0]]), "`points"),
    (lambda: AlphaSchedule([[0, 0.5]], shape="linaer"), "`shape` must be one of"),
]


@pytest.mark.parametrize(("call", "beginning"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_wrong_argument_is_answered_by_one_message(call, beginning):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(beginning)}"):
        call()
