import torch

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses
from lossbalance.weighting import Fixed
from tests.callbacks.modules import OwnsCriterion, TwoHeads, batches, train


def test_a_module_that_knows_nothing_trains_as_one_that_weighs_its_losses_itself(tmp_path):
    weights = {"aux": 0.01, "main": 2.0}
    torch.manual_seed(0)
    stranger = TwoHeads()
    torch.manual_seed(0)
    owner = OwnsCriterion(Fixed(["aux", "main"], weights))

    train(
        stranger, [BalanceLosses(WeightedLoss(Fixed(["aux", "main"], weights)))], batches(8, 2), tmp_path, max_epochs=2
    )
    train(owner, [], batches(8, 2), tmp_path, max_epochs=2)

    for name, parameter in stranger.named_parameters():
        torch.testing.assert_close(parameter, owner.get_parameter(name), rtol=0, atol=0)
