import pytest
import torch

from lossbalance.callbacks.running_means import RunningMeans


def test_batches_count_by_their_size_and_what_is_not_finite_does_not_count():
    means = RunningMeans(2)
    means.update(torch.tensor([[1.0, torch.nan], [4.0, 5.0]]), torch.tensor([2, 1]))
    means.update(torch.tensor([[torch.inf, 7.0]]), torch.tensor([3]))
    assert means.compute().tolist() == [2.0, 6.5]


@pytest.mark.parametrize("at_once", [1, 50])
def test_the_mean_of_a_hundred_thousand_steps_is_right_to_the_last_digit_of_float32(at_once):
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(100_000, 3, generator=generator) * torch.tensor([1e-3, 1.0, 1e5]) + torch.tensor([1e3, 0.1, 0.0])
    sizes = torch.randint(1, 200, (100_000,), generator=generator)
    means = RunningMeans(3)

    for some, their_sizes in zip(rows.split(at_once), sizes.split(at_once), strict=True):
        means.update.__wrapped__(some, their_sizes)

    exact = (rows.double() * sizes.unsqueeze(1)).sum(dim=0) / sizes.sum()
    torch.testing.assert_close(means.compute().double(), exact, rtol=1.2e-7, atol=0)
    if at_once == 1:
        plain = means.totals[0] / means.totals[1]  # without what the roundings have lost
        assert ((plain - exact) / exact).abs().max() > 1e-6
    assert means.totals.dtype == torch.float32


def test_halves_of_an_epoch_add_up():
    whole, first, second = RunningMeans(1), RunningMeans(1), RunningMeans(1)
    for i in range(1000):
        for means in (whole, first if i < 500 else second):
            means.update(torch.tensor([[0.1 * i]]), torch.tensor([i]))
    first.absorb(second)
    torch.testing.assert_close(first.compute(), whole.compute(), rtol=1.2e-7, atol=0)
