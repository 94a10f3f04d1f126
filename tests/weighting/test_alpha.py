import math

import pytest
import torch

from lossbalance.weighting import Alpha


def test_the_first_loss_gets_alpha_and_the_others_share_the_rest():
    total, weights = Alpha(["a", "b", "c"], alpha=0.5)(torch.tensor([2.0, 4.0, 8.0]))
    assert total.item() == 4.0
    assert weights.tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(("alpha", "gradients"), [(0, [0.0, 0.5, 0.5]), (1, [1.0, 0.0, 0.0])])
def test_at_the_ends_one_side_has_a_gradient_of_exactly_zero(alpha, gradients):
    losses = torch.tensor([0.1, 0.7, 0.9], requires_grad=True)
    total, _ = Alpha(["a", "b", "c"], alpha=alpha)(losses)
    total.backward()
    assert losses.grad.tolist() == gradients


def test_alpha_of_one_over_one_plus_lambda_is_a_regularized_loss():
    loss, penalty, strength = torch.tensor(3.0), torch.tensor(40.0), 0.02
    alpha = 1 / (1 + strength)
    total, _ = Alpha(["data", "penalty"], alpha=alpha)(torch.stack([loss, penalty]))
    torch.testing.assert_close(total / alpha, loss + strength * penalty)


def test_alpha_can_be_moved_and_is_saved():
    scheme, resumed = Alpha(["a", "b"], alpha=0.0), Alpha(["a", "b"], alpha=0.5)
    scheme.set_alpha(0.25)
    resumed.load_state_dict(scheme.state_dict())
    assert resumed(torch.ones(2))[1].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("alpha", [1.5, -0.1, math.nan, math.inf, "abc", "0.3", None, True])
def test_what_is_no_number_from_0_to_1_is_refused(alpha):
    message = r"`alpha` must be a number in \[0, 1\], got .*: 0 leaves the first term out, 1 all the others"
    with pytest.raises((TypeError, ValueError), match=message):
        Alpha(["a", "b"], alpha=alpha)
    with pytest.raises((TypeError, ValueError), match=message):
        Alpha(["a", "b"], alpha=0.5).set_alpha(alpha)


def test_one_term_leaves_alpha_nothing_to_choose():
    with pytest.raises(ValueError, match=r"`terms` must be at least two for alpha to choose between, got \['a'\]"):
        Alpha(["a"], alpha=0.5)
