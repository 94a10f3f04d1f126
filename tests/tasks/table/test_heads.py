import math

import pytest
import torch

from lossbalance.tasks.table.heads import Binary, Classes, Number, make_head
from lossbalance.tasks.table.targets import Target

NAN = math.nan


def test_the_squared_error_is_in_the_unit_of_the_target_and_skips_missing_labels():
    labels = torch.tensor([0.0, NAN, 1.0])
    loss = Number(scale=10.0, standardize=False).loss(torch.tensor([[0.5], [7.0], [1.0]]), labels, count=2)
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


def test_a_standardized_loss_has_a_unit_and_classes_keep_their_frequency():
    head = make_head(Target("far", "number", mean=1e7, scale=10.0))
    assert head.loss(torch.tensor([[0.5]]), torch.tensor([0.0]), count=1).item() == pytest.approx(0.25)
    assert head.unit == pytest.approx(100)
    assert make_head(Target("far", "number", scale=10.0), standardize=False).unit == 1
    assert make_head(Target("kind", "classes", ("a", "b", "c"), frequency=2 / 3)).most == pytest.approx(2 / 3)
