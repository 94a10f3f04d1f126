import pytest
import torch
from torchjd import scalarization

from lossbalance import WeightedLoss
from lossbalance.weighting import DWA


def test_the_weights_of_the_third_epoch_by_hand():
    scheme = DWA(["fast", "slow"], temperature=1.0, period=2)
    rows = [[3.0, 1.0], [5.0, 1.0], [1.0, 1.0], [3.0, 3.0], [9.0, 9.0], [9.0, 9.0]]
    shown = [scheme(torch.tensor(row))[1] for row in rows]

    assert [weights.tolist() for weights in shown[:4]] == [[1.0, 1.0]] * 4
    expected = 2 * torch.softmax(torch.tensor([2 / 4, 2 / 1]), dim=0)  # means of epochs 2 and 1
    torch.testing.assert_close(shown[4], expected)
    torch.testing.assert_close(shown[5], expected)


def test_it_equals_an_independent_implementation_over_epochs():
    torch.manual_seed(0)
    ours, theirs = DWA(["a", "b", "c"], period=4), scalarization.DWA()
    for _ in range(6):
        for _ in range(4):
            losses = torch.rand(3) + 0.1
            torch.testing.assert_close(ours(losses)[0], theirs(losses))
        theirs.step()


def test_a_term_that_an_epoch_lacks_keeps_its_means_and_a_broken_step_does_not_count():
    criterion = WeightedLoss(DWA(["a", "b"], period=2))
    rows = [(4.0, 4.0), (4.0, 4.0), (2.0, 1.0), (torch.nan, 1.0), (2.0, 1.0), (1.0, None), (1.0, None), (1.0, 1.0)]
    for a, b in rows:
        criterion({"a": torch.tensor(a), "b": None if b is None else torch.tensor(b)})
    torch.testing.assert_close(criterion.weighting.means, torch.tensor([[1.0, 1.0], [2.0, 4.0]]))


@pytest.mark.parametrize(("settings", "name"), [({"temperature": 0.0}, "temperature"), ({"period": 0}, "period")])
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        DWA(["a"], **settings)
