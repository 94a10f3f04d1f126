import torch

from lossbalance.weighting import Equal


def test_every_loss_counts_as_it_comes():
    total, weights = Equal(["a", "b", "c"])(torch.tensor([1.0, -2.0, 4.0]))
    assert total.item() == 3.0
    assert weights.tolist() == [1.0, 1.0, 1.0]
