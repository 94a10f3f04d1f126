import math
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, LossMonitor
from lossbalance.callbacks.plots import draw_history
from lossbalance.penalties import L2
from lossbalance.weighting import Constrained, Equal, Fixed, GradBalance, Uncertainty
from lossbalance.weighting.base import Weighting, weighted_sum
from tests.callbacks.modules import (
    PROBES,
    TERMS,
    Drawn,
    OwnsCriterion,
    TwoHeads,
    balance,
    batches,
    make_trainer,
    scheme,
)


def test_the_means_of_an_epoch_count_every_sample_once(tmp_path):
    monitor, weights = LossMonitor(), {"aux": 0.5, "main": 2.0}
    module = OwnsCriterion(Fixed(TERMS, weights), lr=0.0)
    module.validation_step = module.training_step

    data = batches(7, batch_size=3)  # the last batch has one sample
    make_trainer([monitor], tmp_path, logger=CSVLogger(tmp_path, "", ""), max_epochs=1).fit(module, data, data)

    expected = {term: loss.item() for term, loss in module.losses(*data.dataset.tensors).items()}
    logged = pd.read_csv(tmp_path / "metrics.csv")
    for term, weight in weights.items():
        for name in (f"loss/{term}", f"val/loss/{term}"):
            assert logged[name].dropna().tolist() == [pytest.approx(expected[term])]
        assert logged[f"weight/{term}"].dropna().tolist() == [weight]
        assert monitor.last_epoch[term]["contribution"] == pytest.approx(weight * expected[term])
    assert sum(row["value_share"] for row in monitor.last_epoch.values()) == pytest.approx(1)
    assert sum(row["gradient_share"] for row in monitor.last_epoch.values()) == pytest.approx(1)
    assert (tmp_path / "losses.png").stat().st_size > 10_000


def test_between_epochs_it_logs_the_means_since_the_last_time(tmp_path):
    module = OwnsCriterion(scheme("gradbalance"), lr=0.0)

    make_trainer([LossMonitor()], tmp_path, logger=CSVLogger(tmp_path, "", ""), max_epochs=1, log_every_n_steps=2).fit(
        module, batches(5, 1)
    )

    losses = [module.losses(*batch)["aux"].item() for batch in batches(5, 1)]
    logged = pd.read_csv(tmp_path / "metrics.csv")["loss/aux_step"].dropna().tolist()
    assert logged == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:4]) / 2])


def test_how_far_a_loss_is_from_its_limit_is_logged(tmp_path):
    monitor, weighting = LossMonitor(), Constrained(TERMS, {"aux": 100.0})
    make_trainer([monitor], tmp_path, logger=CSVLogger(tmp_path, "", ""), max_epochs=2, log_every_n_steps=2).fit(
        OwnsCriterion(weighting), batches(4, 2)
    )

    logged = pd.read_csv(tmp_path / "metrics.csv")
    distance = weighting.distances["aux"].item()
    assert logged["distance/aux"].dropna().iloc[-1] == pytest.approx(distance)
    assert logged["distance/aux_step"].dropna().iloc[-1] == pytest.approx(distance)
    assert "distance/main" not in logged


def test_a_loss_that_is_absent_or_not_finite_is_left_out_and_the_latter_told(tmp_path):
    monitor = LossMonitor()

    with pytest.warns(UserWarning, match=r"The loss of 'aux' was not finite in 25\.00% of an epoch"):
        make_trainer([monitor, balance()], tmp_path, max_steps=4).fit(Drawn(lacks=[1, 2, 3], breaks=[0]), batches(4, 1))
    assert math.isnan(monitor.last_epoch["aux"]["loss"])
    assert monitor.last_epoch["main"]["loss"] > 0


def test_other_callbacks_can_watch_what_it_logs(tmp_path):
    class Evaluates(TwoHeads):
        def validation_step(self, batch, batch_idx):
            return {"losses": {**self.losses(*batch), "aux": None}}

    monitor = LossMonitor()
    trainer = make_trainer([monitor, balance()], tmp_path, max_epochs=1)
    trainer.fit(Evaluates(), batches(4, 2), batches(4, 2))

    assert trainer.callback_metrics["loss/aux"].item() == pytest.approx(monitor.last_epoch["aux"]["loss"])
    assert "val/loss/main" in trainer.callback_metrics
    assert "val/loss/aux" not in trainer.callback_metrics


def test_what_the_module_logs_itself_is_not_logged_again(tmp_path):
    class Logs(OwnsCriterion):
        def validation_step(self, batch, batch_idx):
            self.criterion(self.losses(*batch))
            self.log("val/loss/aux", 123.0)

    trainer = make_trainer([LossMonitor()], tmp_path, max_epochs=1)
    trainer.fit(Logs(scheme("gradbalance")), batches(4, 2), batches(4, 2))

    assert trainer.callback_metrics["val/loss/aux"].item() == 123.0
    assert trainer.callback_metrics["val/loss/main"].item() != 123.0


class Penalized(OwnsCriterion):
    def __init__(self, penalty):
        super().__init__(Equal(TERMS), lr=0.0)
        self.criterion = WeightedLoss(Equal(TERMS), penalties={"l2": penalty})

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.criterion.attach(optimizer, self)
        return optimizer


def norm(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


@pytest.mark.parametrize("mode", ["loss", "gradient", "decoupled"])
def test_a_penalty_is_a_row_of_its_own_with_its_strength_and_its_share_of_the_gradient(tmp_path, mode):
    monitor, module = LossMonitor(), Penalized(L2(0.1, mode=mode))

    make_trainer([monitor], tmp_path, max_epochs=1).fit(module, batches(1, 2))

    row, own = monitor.last_epoch["l2"], L2(1.0)(module)
    assert (row["loss"], row["weight"], row["contribution"]) == pytest.approx((own.item(), 0.1, 0.1 * own.item()))
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    data = norm(torch.autograd.grad(sum(module.losses(*next(iter(batches(1, 2)))).values()), weights))
    penalty = norm(torch.autograd.grad(0.1 * own, weights))
    assert row["gradient_share"] == pytest.approx(penalty / (penalty + data))


def test_the_weight_of_a_share_is_the_strength_that_it_amounts_to(tmp_path):
    monitor, module = LossMonitor(), Penalized(L2(share=0.25))

    make_trainer([monitor], tmp_path, max_epochs=1).fit(module, batches(1, 2))

    row = monitor.last_epoch["l2"]
    assert row["weight"] == module.criterion.penalties["l2"].effective_strength.item() > 0
    assert row["gradient_share"] == pytest.approx(0.25 / 1.25)


def test_tensorboard_gets_the_picture(tmp_path):
    pytest.importorskip("tensorboard")
    from pytorch_lightning.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "", "")
    make_trainer([LossMonitor(), balance()], tmp_path, logger=logger, max_epochs=2).fit(TwoHeads(), batches(4, 2))

    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["losses"]
    assert [event.step for event in events.Scalars("loss/aux")] == [1, 3]


def test_a_resumed_epoch_counts_what_was_counted_before(tmp_path):
    whole, first, second = LossMonitor(), LossMonitor(), LossMonitor()
    for monitor, steps in ((whole, 4), (first, 2)):
        make_trainer([monitor, balance()], tmp_path, max_steps=steps).fit(Drawn(), batches(4, 1))
    state = first.state_dict()  # at the end of an epoch that was cut short

    second.load_state_dict(state)
    make_trainer([second, balance()], tmp_path, max_steps=4).fit(Drawn(), batches(4, 1))

    assert second.history[0] == first.history[0]
    assert len(second.history) == 2


class Operations(TorchDispatchMode):
    """Notes what the device is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [2, 16])
def test_between_logs_a_step_costs_a_few_operations_whatever_the_number_of_terms_and_asks_for_nothing(count):
    terms = [f"term {i}" for i in range(count)]
    criterion, x, weight = WeightedLoss(GradBalance(terms)), torch.randn(8, 8), torch.randn(8, 8, requires_grad=True)
    monitor, module = LossMonitor(), SimpleNamespace(device="cpu", named_modules=lambda: [("criterion", criterion)])
    trainer = SimpleNamespace(callbacks=[], optimizers=[], global_step=0, current_epoch=0, log_every_n_steps=50)
    trainer.loggers, trainer.lr_scheduler_configs, trainer.gradient_clip_val = [], [], None
    monitor.on_train_start(trainer, module)
    for step in range(1, 11):
        h = x @ weight
        criterion({term: (criterion.probe(term, h) + i).square().mean() for i, term in enumerate(terms)}).backward()
        trainer.global_step = step
        with Operations() as operations:
            monitor.on_after_backward(trainer, module)
            monitor.on_train_batch_end(trainer, module, None, [x, x], 0)
    assert len(operations.names) <= 20
    assert "aten._local_scalar_dense.default" not in operations.names


class Collapsing(Weighting):
    """Takes the weight of the first term away, by a rule."""

    def __init__(self, terms):
        super().__init__(terms)
        self.register_buffer("weight", torch.ones(len(self.terms)))

    def observe(self, observation):
        self.weight[0] *= 0.01

    def weigh(self, losses, present):
        return weighted_sum(losses, self.weight, present)


class Dominated(TwoHeads):
    def losses(self, x, y):
        return {term: loss * (1e6 if term == "aux" else 1.0) for term, loss in super().losses(x, y).items()}


class Detached(TwoHeads):
    def losses(self, x, y):
        return {**super().losses(x, y), "aux": x.square().mean()}


class Unmoved(TwoHeads):
    def losses(self, x, y):
        return {**super().losses(x, y), "aux": x.square().mean() + 0 * self.aux_head.bias.sum()}


class Bypassed(TwoHeads):
    def losses(self, x, y):
        h = self.trunk(x).tanh()
        return {**super().losses(x, y), "aux": nn.functional.linear(h, self.aux_head.weight).square().mean()}


class Decays(OwnsCriterion):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), weight_decay=0.1)


class Forgets(OwnsCriterion):
    def configure_optimizers(self):
        return torch.optim.SGD(self.trunk.parameters(), lr=0.01)


def balanced(weighting: Weighting) -> BalanceLosses:
    return BalanceLosses(WeightedLoss(weighting), probes=PROBES)


TROUBLES = {
    "dominance": (Dominated, balanced(Equal(TERMS)), r"'aux' takes (99|100)\.\d% of the gradient .* GradBalance"),
    "collapse": (
        TwoHeads,
        BalanceLosses(WeightedLoss(Collapsing(TERMS))),
        "weight of 'aux' has collapsed from .* hold it by Fixed",
    ),
    "detached": (Detached, BalanceLosses(WeightedLoss(Equal(TERMS))), "'aux' has no gradient, .* Give None"),
    "unmoved": (Unmoved, BalanceLosses(WeightedLoss(Equal(TERMS))), "loss of 'aux' never moved: .* Is it detached"),
    "unseen": (Bypassed, balanced(Equal(TERMS)), "probe of 'aux' never fired .* `criterion.probe"),
    "decay": (lambda: Decays(Uncertainty(TERMS)), None, r"under a weight decay of 0\.1: put `\*criterion.parameter_gr"),
    "forgotten": (
        lambda: Forgets(Uncertainty(TERMS)),
        None,
        "will never move, for `Uncertainty.log_variance` is in no",
    ),
}


@pytest.mark.parametrize(("make_module", "callback", "message"), TROUBLES.values(), ids=TROUBLES)
def test_a_trouble_is_told_once_by_name_and_with_its_cure(make_module, callback, message, tmp_path):
    callbacks = [LossMonitor(), *([callback] if callback else [])]
    options = {"gradient_clip_val": 0.1, "max_epochs": 4}

    with pytest.warns(UserWarning, match=message) as caught:
        make_trainer(callbacks, tmp_path, **options).fit(make_module(), batches(16, 2))

    assert len([warning for warning in caught if "'aux'" in str(warning.message)]) == 1


def test_weights_that_are_chosen_are_no_trouble(tmp_path):
    monitor = LossMonitor()
    make_trainer([monitor, balanced(Fixed(TERMS, {"aux": 0.0, "main": 1.0}))], tmp_path, max_epochs=3).fit(
        Dominated(), batches(16, 2)
    )
    assert monitor.last_epoch["main"]["gradient_share"] == 1.0


def test_a_module_without_a_criterion_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`LossMonitor` needs the module to own a WeightedLoss, and found none in"):
        make_trainer([LossMonitor()], tmp_path, max_epochs=1).fit(TwoHeads(), batches(4, 2))


def test_cosines_and_conflicts_at_a_branch_are_averaged_over_steps_and_drawn(tmp_path):
    class Recorder(pl.Callback):
        cosines: ClassVar[list[float]] = []

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.cosines.append(balancer.criterion.last.cosines["aux", "main"].item())

    balancer = BalanceLosses(WeightedLoss(Equal(TERMS)), probes=PROBES, branch="trunk")
    monitor, module = LossMonitor(), TwoHeads()
    module.main_head.load_state_dict(module.aux_head.state_dict())  # the cosine is that of the errors
    make_trainer([balancer, monitor, Recorder()], tmp_path, max_epochs=2).fit(module, batches(16, 2))

    last = torch.tensor(Recorder.cosines[8:])
    assert monitor.history[-1]["cosine/aux/main"] == pytest.approx(last.mean().item(), abs=1e-6)
    assert monitor.history[-1]["conflict/aux/main"] == pytest.approx((last < -0.1).float().mean().item())
    assert 0 < monitor.history[-1]["conflict/aux/main"] < 1
    panel = draw_history(monitor.history).axes[-1]
    assert panel.get_title() == "Gradients at the branch"
    assert panel.lines[0].get_label() == "aux/main"


def test_without_branch_no_cosine_is_logged(tmp_path):
    monitor = LossMonitor(pictures=False)
    make_trainer([balance(), monitor], tmp_path, max_epochs=1).fit(TwoHeads(), batches(16, 2))
    assert not any(name.startswith(("cosine", "conflict")) for name in monitor.history[-1])


def test_without_logger_the_picture_is_in_a_folder_that_was_chosen_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, drawn in ((tmp_path / "chosen", True), (tmp_path, False)):
        monitor = LossMonitor(title="digits")
        make_trainer([balance(), monitor], folder, max_epochs=2).fit(TwoHeads(), batches(4, 2))
        assert (folder / "losses.png").exists() is drawn
    assert monitor.plot().get_suptitle().startswith("digits, Fixed")
    assert "<th>aux</th>" in monitor._repr_html_()


@pytest.mark.parametrize(("settings", "named"), [({"pictures": "x"}, "`pictures`"), ({"title": 3}, "`title`")])
def test_settings_of_the_wrong_type_are_refused(settings, named):
    with pytest.raises(TypeError, match=f"{named} must be .*, got"):
        LossMonitor(**settings)
