"""The physics-informed task."""

import pytest
import pytorch_lightning as pl
import torch

from lossbalance import WeightedLoss
from lossbalance.conflict import ConFIG
from lossbalance.tasks.pinn import CollocationPoints, Helmholtz, PINNModule, TanhNet
from lossbalance.tasks.pinn.data import draw_boundary
from lossbalance.weighting import Equal, GradBalance, LRAnnealing

TERMS = ["residual", "boundary"]


def make_module(weighting=None, conflict=None):
    criterion = WeightedLoss(weighting or Equal(TERMS), conflict=conflict)
    return PINNModule(TanhNet(8, 2), Helmholtz((1, 2)), criterion, lambda groups: torch.optim.Adam(groups, lr=1e-3))


@pytest.mark.parametrize(("waves", "k"), [((1, 4), 1.0), ((2, 1), 3.0)])
def test_the_known_solution_leaves_no_residual_inside_and_vanishes_on_the_boundary(waves, k):
    equation = Helmholtz(waves, k)
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(200, 2, dtype=torch.float64, generator=generator) * 2 - 1
    edge = draw_boundary(200, generator).double()

    assert equation.residual(equation.solution, inside) < 1e-20 * equation.source(inside).square().mean()
    assert equation.boundary(equation.solution, edge) < 1e-20


def test_u_equal_to_zero_solves_the_boundary_and_has_a_relative_error_of_one():
    module = make_module()
    for parameter in module.net.parameters():
        torch.nn.init.zeros_(parameter)
    data = CollocationPoints(size=64)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))

    losses = module.losses(module.predict(batch), batch)
    module.score(None, batch)

    assert losses["boundary"] == 0
    assert losses["residual"] > 0
    assert module.compute_metrics()["relative_l2"] == pytest.approx(1.0)


def test_points_on_the_boundary_are_there_and_on_each_side():
    points = draw_boundary(400, torch.Generator().manual_seed(0))
    assert points.abs().max(dim=1).values.eq(1).all()
    for side in (points[:, 0] == 1, points[:, 0] == -1, points[:, 1] == 1, points[:, 1] == -1):
        assert 60 < side.sum() < 140


@pytest.mark.parametrize("weighting", [GradBalance, LRAnnealing])
def test_the_first_weights_are_those_of_the_gradients_by_all_parameters(weighting):
    module = make_module(weighting(TERMS))
    data = CollocationPoints(size=32, batch_size=32)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    losses = module.losses(dict.fromkeys(TERMS, module.net), batch)
    unused = {"allow_unused": True, "materialize_grads": True}  # no derivative depends on the last bias
    residual, boundary = (
        torch.cat(
            [gradient.flatten() for gradient in torch.autograd.grad(loss, list(module.net.parameters()), **unused)]
        )
        for loss in losses.values()
    )

    module.criterion(module.losses(module.predict(batch), batch)).backward()
    weights = module.criterion.weights

    ratio = (
        boundary.norm() / residual.norm() if weighting is GradBalance else boundary.abs().mean() / residual.abs().max()
    )
    torch.testing.assert_close(weights["residual"] / weights["boundary"], ratio, rtol=1e-4, atol=0)


def test_a_training_evaluates_the_residual_in_validation_and_test():
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    module, data = make_module(GradBalance(TERMS)), CollocationPoints(size=64, batch_size=32)
    trainer.fit(module, data)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics["val/loss/residual"] > 0
    assert 0 < metrics["val/relative_l2"] < 10
    trainer.test(module, data, verbose=False)
    assert trainer.callback_metrics["test/relative_l2"] > 0


def test_waves_that_do_not_vanish_on_the_boundary_are_refused():
    with pytest.raises(ValueError, match="`waves` must be a whole number, for the solution to vanish on the boundary"):
        Helmholtz((1, 2.5))
    with pytest.raises(ValueError, match="`waves` must be two numbers"):
        Helmholtz((1,))


def test_conflicts_are_settled_at_all_parameters():
    module, data = make_module(conflict=ConFIG()), CollocationPoints(size=32, batch_size=32)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    losses = module.losses(dict.fromkeys(TERMS, module.net), batch)
    parameters = list(module.net.parameters())
    rows = []
    for loss in losses.values():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    expected = ConFIG()(torch.stack(rows) @ torch.stack(rows).T) @ torch.stack(rows)

    module.training_step(batch, 0).backward()

    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in parameters]), expected, rtol=1e-4, atol=1e-5)
    cosine = torch.cosine_similarity(*rows, dim=0)
    torch.testing.assert_close(module.criterion.last.cosines["residual", "boundary"], cosine, rtol=1e-4, atol=1e-5)
