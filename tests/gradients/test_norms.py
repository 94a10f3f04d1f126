"""Norms of gradients against double precision."""

import pytest
import torch

from lossbalance.gradients.norms import squared_norm


@pytest.mark.parametrize("count", [0, 1, 1000, 2**17, 2**17 + 1, 2**18, 2**22 + 77])
def test_a_norm_is_right_to_one_in_a_million_however_long_the_tensor(count):
    x = torch.randn(count, generator=torch.Generator().manual_seed(0))
    assert squared_norm(x).sqrt().item() == pytest.approx(x.double().norm().item(), rel=1e-6)


@pytest.mark.parametrize("count", [2**17, 2**22 + 77])
def test_equal_entries_round_all_in_one_direction_and_do_little_harm(count):
    assert squared_norm(torch.full((count,), 0.1)).sqrt().item() == pytest.approx(0.1 * count**0.5, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [100, 2**17 + 1])
def test_narrow_types_are_summed_up_in_single_precision(dtype, count):
    x = torch.full((count,), 300.0).to(dtype)  # whose square does not fit into fp16
    square = squared_norm(x)
    assert square.dtype == torch.float32
    assert square.item() == pytest.approx(count * x[0].double().item() ** 2, rel=1e-5)


def test_a_norm_has_no_gradient_and_takes_any_layout():
    x = torch.arange(6.0).view(2, 3).T.requires_grad_()
    square = squared_norm(x)
    assert square.item() == 55
    assert not square.requires_grad


def test_the_gradient_of_a_sum_which_is_one_number_repeated():
    assert squared_norm(torch.tensor(0.1).expand(256, 512)).sqrt().item() == pytest.approx(0.1 * 2**8.5, rel=1e-5)
