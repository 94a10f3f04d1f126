import pytest
import torch
from torch import nn

from lossbalance.weighting import NTK, Observation

TERMS = ["residual", "boundary"]


def observe(scheme, losses, norms, seen=(True, True)):
    scheme.observe(Observation(torch.tensor(losses), torch.tensor(norms), torch.tensor(seen)))
    return scheme.eval()(torch.ones(2))[1].tolist()


def test_two_steps_by_hand():
    scheme = NTK(TERMS, decay=0.5)
    assert observe(scheme, [1.0, 4.0], [3.0, 2.0]) == pytest.approx([10 / 9, 10])
    # rates 9 and 1, then 3 and 4: averages (9 / 2 + 3) / (3 / 2) = 5 and (1 / 2 + 4) / (3 / 2) = 3
    assert observe(scheme, [3.0, 1.0], [3.0, 2.0]) == pytest.approx([8 / 5, 8 / 3])


def test_the_term_that_falls_slowly_gets_the_larger_weight_and_the_weighted_rates_are_equal():
    residual, boundary = observe(NTK(TERMS), [5.0, 5.0], [100.0, 1.0])
    assert boundary > residual
    assert residual * 100.0**2 == pytest.approx(boundary * 1.0)


def test_an_absent_term_keeps_its_rate():
    scheme = NTK(TERMS)
    before = observe(scheme, [1.0, 4.0], [3.0, 2.0])
    assert observe(scheme, [1.0, 0.0], [3.0, 0.0], seen=(True, False)) == pytest.approx(before)


def kernel(network, points):
    """The tangent kernel of a network of one output, sample by sample."""
    rows = [torch.autograd.grad(network(point.unsqueeze(0)).sum(), [*network.parameters()]) for point in points]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return jacobian @ jacobian.T


def rate(network, points, targets):
    """The squared norm of the gradient of the loss over the loss, from one backward pass."""
    loss = (network(points).squeeze(1) - targets).square().mean()
    grads = torch.autograd.grad(loss, [*network.parameters()])
    return sum(grad.square().sum() for grad in grads) / loss


def test_the_mean_of_the_rates_over_the_signs_of_the_residuals_is_the_trace():
    torch.manual_seed(0)
    network, points = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double(), torch.randn(4, 2).double()
    outputs = network(points).squeeze(1).detach()
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)

    mean = torch.stack([rate(network, points, outputs - sign) for sign in signs]).mean()

    torch.testing.assert_close(mean, 4 * kernel(network, points).trace() / len(points) ** 2)


def test_the_rates_of_a_network_before_training_have_the_proportion_of_the_traces_within_a_factor_of_two():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    inside, outside = torch.randn(64, 2), 6 * torch.randn(64, 2)  # saturated units have smaller gradients
    rates = [rate(network, points, torch.randn(64)) for points in (inside, outside)]
    traces = [kernel(network, points).trace() for points in (inside, outside)]
    assert 0.5 < (rates[0] / rates[1]) / (traces[0] / traces[1]) < 2


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"`decay` must be a number in \[0, 1\), got 1"):
        NTK(TERMS, decay=1)
    with pytest.raises(ValueError, match=r"must be above 0 for NTK, got \{'boundary': 0.0\}"):
        observe(NTK(TERMS), [1.0, 0.0], [1.0, 1.0])
