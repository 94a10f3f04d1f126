"""Gradient norms at probes against `torch.autograd.grad`."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lossbalance import WeightedLoss
from lossbalance.weighting import Equal
from tests.gradients.networks import (
    Attention,
    Convolution,
    Linear,
    either_kind,
    losses_and_branch_points,
    recording,
    reveal,
    true_norms,
)
from tests.helpers.recorder import Recorder


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("network", [Linear, Convolution, Attention])
def test_probes_measure_what_autograd_says(network, nested):
    torch.manual_seed(0)
    net, criterion = network(), recording()
    shown, expected = [], []
    for _ in range(2):
        losses, points = losses_and_branch_points(net, net.example(), criterion.probe, nested)
        expected.append(true_norms(losses, points))
        criterion(losses).backward()
        shown.append(criterion.weighting.shown[-1].norms)
    torch.testing.assert_close(shown[0], expected[0], rtol=1e-6, atol=0)  # ahead of the first step
    torch.testing.assert_close(reveal(criterion), expected[1], rtol=1e-6, atol=0)  # by the backward pass


def test_the_norm_of_a_gradient_of_two_entries_by_hand():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x = torch.tensor([1.0, 1.0], requires_grad=True)
        aux = (criterion.probe("aux", x) * torch.tensor([3.0, 4.0])).sum()  # d aux / dx = (3, 4), of norm 5
        main = (criterion.probe("main", x) * torch.tensor([0.0, 7.0])).sum()
        criterion({"aux": aux, "main": main}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(x.grad, torch.tensor([6.0, 15.0]))  # the gradient itself passes unchanged


def test_several_probes_of_one_term_add_up_in_squares():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
        aux = (3 * criterion.probe("aux", x) + 4 * criterion.probe("aux", y)).sum()
        criterion({"aux": aux, "main": criterion.probe("main", x).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 1.0]))


@pytest.mark.parametrize("terms", [list("abcdefghij"), list("jigfedcbah")])
def test_many_terms_at_one_activation_measure_the_same_in_any_order_and_leave_its_gradient_as_it_was(terms):
    criterion = WeightedLoss(Recorder(sorted(terms), [1.0] * 10))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 300, generator=generator)
    heads = {term: torch.randn(300, generator=generator) for term in terms}

    def step(probe: Callable[[str, Tensor], Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        h = leaf.tanh()
        losses = {}
        for term, head in heads.items():
            losses[term] = (probe(term, h) @ head).square().mean() + (h @ head).mean()  # also past the probe
        return losses, leaf, h

    for _ in range(3):
        losses, probed, _ = step(criterion.probe)
        criterion(losses).backward()
    criterion(dict.fromkeys(terms))

    losses, plain, h = step(lambda _, h: h)
    squares = {term: loss - (h @ heads[term]).mean() for term, loss in losses.items()}
    norms = [torch.autograd.grad(squares[term], h, retain_graph=True)[0].norm() for term in sorted(terms)]
    torch.testing.assert_close(criterion.weighting.shown[-1].norms, torch.stack(norms), rtol=1e-6, atol=0)
    torch.stack([losses[term] for term in sorted(terms)]).sum().backward()
    assert torch.equal(probed.grad, plain.grad)  # to the last bit: added up in the same order


def test_a_term_that_probes_an_activation_twice_has_a_norm_of_each():
    criterion = recording(weights=(2.0, 1.0))
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        aux = (3 * criterion.probe("aux", x) + 4 * criterion.probe("aux", x)).sum()
        criterion({"aux": aux, "main": criterion.probe("main", x).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([15.0]))


def test_an_activation_changed_in_place_between_two_probes_is_another_one():
    criterion = recording(weights=(1.0, 1.0))
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        h = x * 1
        aux = criterion.probe("aux", h).sum()
        h.mul_(5)
        criterion({"aux": aux, "main": criterion.probe("main", h).sum()}).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([6.0]))


def without_gradients(criterion: WeightedLoss, x: Tensor) -> Tensor:
    with torch.no_grad():
        assert criterion.probe("aux", x) is x
    return x


def in_evaluation(criterion: WeightedLoss, x: Tensor) -> Tensor:
    criterion.eval()
    assert criterion.probe("main", x) is x
    criterion.train()
    return x


def with_other_data(criterion: WeightedLoss, x: Tensor) -> Tensor:
    x.data = torch.full_like(x, 5.0)
    return x


@either_kind
@pytest.mark.parametrize("meanwhile", [without_gradients, in_evaluation, with_other_data])
def test_a_branch_is_of_the_activation_as_it_is_and_of_nothing_that_happened_meanwhile(scheme, meanwhile):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    h = x * 2
    criterion.probe("aux", h)
    main = criterion.probe("main", meanwhile(criterion, h))
    assert torch.equal(main, h)
    torch.testing.assert_close(torch.autograd.grad(main.sum(), x)[0], torch.full((2,), 2.0))


@either_kind
def test_an_activation_that_comes_to_need_a_gradient_between_two_probes_gets_it(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2)
    criterion.probe("aux", x)
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(criterion.probe("main", x).sum(), x)[0], torch.ones(2))


@either_kind
def test_an_activation_cut_off_between_two_probes_stays_cut_off(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    h = x * 2
    criterion.probe("aux", h)
    cut = criterion.probe("main", h.detach_()).sum()
    if cut.requires_grad:  # by the leaf
        cut.backward()
    assert x.grad is None


@either_kind
def test_an_activation_must_not_be_changed_in_place_behind_its_probe(scheme):
    criterion, x = WeightedLoss(scheme(["aux", "main"])), torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="modified inplace"):
        criterion.probe("aux", x * 1).relu_()


def test_gradient_shares_are_those_of_the_weighted_terms_under_every_scheme():
    criterion = WeightedLoss(Equal(["aux", "main"]))
    x = torch.ones(1, requires_grad=True)
    total = criterion({"aux": 3 * criterion.probe("aux", x).sum(), "main": criterion.probe("main", x).sum()})
    assert math.isnan(criterion.last.gradient_shares["aux"])
    total.backward()
    assert {term: share.item() for term, share in criterion.last.gradient_shares.items()} == {"aux": 0.75, "main": 0.25}


@pytest.mark.filterwarnings("ignore:.* has no gradient, while other losses have one")
def test_a_probed_term_without_gradient_counts_as_absent():
    criterion = recording()
    for _ in range(2):
        x = torch.ones(1, requires_grad=True)
        h = criterion.probe("aux", x)
        criterion({"aux": (h * 0).detach().sum() + 1, "main": criterion.probe("main", x).sum()}).backward()
    criterion({"aux": None, "main": None})
    assert criterion.weighting.shown[-1].seen.tolist() == [False, True]


def test_activations_of_a_frozen_trunk_are_measured_too():
    criterion, heads = recording(weights=(2.0, 1.0)), torch.tensor([[3.0, 4.0], [0.0, 7.0]], requires_grad=True)
    for _ in range(3):
        h = torch.ones(2)
        losses = {"aux": criterion.probe("aux", h) @ heads[0], "main": criterion.probe("main", h) @ heads[1]}
        criterion(losses).backward()
    torch.testing.assert_close(reveal(criterion), torch.tensor([5.0, 7.0]))


def test_probe_inputs_measures_the_same_without_an_edit_and_leaves_nothing_behind():
    torch.manual_seed(0)
    net, edited, untouched = Linear(), recording(), recording()
    handle = untouched.probe_inputs({"aux": net.aux, "main": net.main})

    def forward(x: Tensor) -> dict[str, Tensor]:
        h = net.first(x)
        return {"aux": 300 * net.aux(h).square().mean(), "main": net.main(net.second(h)).tanh().mean()}

    x = net.example()
    for _ in range(2):
        untouched(forward(x)).backward()
    handle.remove()
    for _ in range(2):
        edited(losses_and_branch_points(net, x, edited.probe, nested=True)[0]).backward()

    torch.testing.assert_close(reveal(untouched), reveal(edited))
    assert not net.aux._forward_pre_hooks
    assert not net.main._forward_pre_hooks
