import math

import numpy as np
import pytest
import torch

from lossbalance.tasks.table.heads import Binary, Classes, Number, make_heads
from lossbalance.tasks.table.targets import Target

NAN = math.nan


def test_the_squared_error_is_in_the_unit_of_the_target_and_skips_missing_labels():
    labels = torch.tensor([0.0, NAN, 1.0])
    loss = Number(scale=10.0).loss(torch.tensor([[0.5], [7.0], [1.0]]), labels, count=2)
    assert loss.item() == pytest.approx((5.0**2 + 0) / 2)  # half a standard deviation of 10 off, and exact


@pytest.mark.parametrize("head", [Number(3.0), Binary(), Classes(3, 0.5)])
def test_a_row_without_a_label_has_no_gradient_however_wild_its_output(head):
    outputs = torch.full((2, head.outputs), 1e30).requires_grad_()
    head.loss(outputs * torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, NAN]), count=1).backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[1].abs().sum() == 0


def test_the_skill_is_0_for_an_answer_that_never_changes_and_1_for_perfect_ones():
    for head, constant in ((Number(1.0), 0.0), (Binary(), 0.5), (Classes(3, 0.7), 0.7)):
        assert head.skill(torch.tensor(constant)).item() == pytest.approx(0)
        assert head.skill(torch.tensor(1.0)).item() == pytest.approx(1)


def test_metrics_see_only_rows_with_a_label():
    head = Binary()
    head.score(torch.tensor([[1.0], [2.0], [-9.0], [3.0]]), torch.tensor([0.0, 1.0, NAN, 1.0]))
    head.score(torch.zeros(1, 1), torch.tensor([NAN]))
    assert head.metric.compute().item() == 1.0


def test_numbers_are_standardized_and_classes_keep_their_frequency():
    number = Target("far", "number", np.array([1e7, 1e7 + 2, NAN, 1e7 + 9]))
    classes = Target("kind", "classes", np.array([0.0, 1.0, 1.0, 2.0]), ("a", "b", "c"))
    heads, labels = make_heads([number, classes], torch.arange(3))
    assert heads["far"].scale == pytest.approx(1.0)
    assert labels[:, 0].tolist() == pytest.approx([-1, 1, NAN, 8], nan_ok=True)
    assert heads["kind"].most == pytest.approx(2 / 3)
