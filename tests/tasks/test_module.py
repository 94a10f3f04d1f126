from functools import partial

import pytest
import torch

from lossbalance import WeightedLoss
from lossbalance.tasks import Classification, IntermediateNet, MultiLossModule, Reconstruction
from lossbalance.weighting import GradBalance, Uncertainty


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    image = torch.rand(16, 8, 11)
    return {"image": image, "aux": image, "main": torch.randint(10, (16,))}


def module(criterion: WeightedLoss) -> MultiLossModule:
    torch.manual_seed(0)
    heads = {"aux": Reconstruction(88), "main": Classification(10)}
    return MultiLossModule(IntermediateNet, heads, criterion, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5))


def test_the_step_returns_the_weighted_total_and_probes_both_heads(batch):
    trained = module(WeightedLoss(GradBalance(["aux", "main"])))
    trained.training_step(batch, 0).backward()
    shares = trained.criterion.last.gradient_shares
    assert shares["aux"].item() == pytest.approx(0.5, abs=1e-4)
    assert shares["main"].item() == pytest.approx(0.5, abs=1e-4)


def test_what_the_scheme_learns_has_a_group_of_its_own_without_weight_decay():
    trained = module(WeightedLoss(Uncertainty(["aux", "main"])))
    networks, learned = trained.configure_optimizers().param_groups
    assert learned["params"] == [trained.criterion.weighting.log_variance]
    assert (networks["weight_decay"], learned["weight_decay"]) == (0.5, 0.0)


def test_the_aux_head_hangs_on_the_intermediate_layer(batch):
    net = IntermediateNet({"aux": 3, "main": 10})
    net(batch["image"])["aux"].sum().backward()
    assert net.trunk[1].weight.grad is not None
    assert all(parameter.grad is None for parameter in net.branches["main"].parameters())


def test_the_squared_error_is_summed_over_pixels_and_averaged_over_pictures():
    loss = Reconstruction(4).loss(torch.zeros(2, 4), torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]]))
    assert loss.item() == 7.0
