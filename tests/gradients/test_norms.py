"""Norms of gradients against double precision."""

import pytest
import torch
from torch import Tensor

from lossbalance.gradients import norms
from lossbalance.gradients.norms import NormAccumulator


def measured(*gradients: Tensor) -> Tensor:
    """The norm, the largest and the mean magnitude of the gradients of one term."""
    accumulator = NormAccumulator([sum(gradient.numel() for gradient in gradients)], magnitudes=True)
    for gradient in gradients:
        accumulator.add(0, gradient)
    rows = accumulator.rows()
    assert not rows.requires_grad
    return rows[:, 0]


@pytest.mark.parametrize("count", [1, 1000, 2**16 + 1, 2**18, 2**22 + 77])
def test_a_norm_is_right_to_one_in_a_million_however_long_the_tensor(count):
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    norm, largest, mean = measured(x).tolist()
    assert norm == pytest.approx(x.double().norm().item(), rel=1e-6)
    assert largest == x.abs().max()
    assert mean == pytest.approx(x.double().abs().mean().item(), rel=1e-5)


@pytest.mark.parametrize("count", [2**17, 2**22 + 77])
def test_equal_entries_round_all_in_one_direction_and_do_little_harm(count):
    assert measured(torch.full((count,), 0.1))[0].item() == pytest.approx(0.1 * count**0.5, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [100, 2**17 + 1])
def test_narrow_types_are_summed_up_in_single_precision(dtype, count):
    x = torch.full((count,), 300.0).to(dtype)  # whose square does not fit into fp16
    norm, largest, mean = measured(x)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(count**0.5 * x[0].item(), rel=1e-4)
    assert largest == x[0]
    assert mean.item() == pytest.approx(x[0].item(), rel=1e-4)


@pytest.mark.parametrize("waiting", [0, 2**26])  # each by itself, or all at once
def test_the_gradients_of_a_term_are_measured_as_one_whatever_their_type_and_however_many_wait(waiting, monkeypatch):
    monkeypatch.setattr(norms, "_WAITING_ON_CPU", waiting)
    parts = [torch.tensor([3.0]), torch.tensor([[-4.0]]).half(), torch.zeros(0), torch.tensor([12.0]).double()]
    torch.testing.assert_close(measured(*parts), torch.tensor([13.0, 12.0, 19 / 3]).double())


def test_terms_without_gradient_have_zeros_and_none_at_all_is_nothing():
    accumulator = NormAccumulator([1, 1, 1], magnitudes=False)
    assert accumulator.rows() is None
    accumulator.add(1, torch.tensor([5.0]))
    assert accumulator.rows().tolist() == [[0.0, 5.0, 0.0]]


def test_any_layout_and_complex_numbers_are_measured_and_sparse_ones_refused():
    assert measured(torch.arange(6.0).view(2, 3).T.requires_grad_())[0].item() == pytest.approx(55**0.5)
    assert measured(torch.tensor(0.1).expand(256, 512))[0].item() == pytest.approx(0.1 * 2**8.5, rel=1e-4)
    assert measured(torch.tensor([3 + 4j, 12j]).conj())[0].item() == pytest.approx(13)
    with pytest.raises(TypeError, match="gradients must be dense to be measured"):
        measured(torch.ones(3).to_sparse())
