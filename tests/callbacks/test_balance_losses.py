import pytest
import pytorch_lightning as pl
import torch

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, BalanceLosses, LossMonitor
from lossbalance.conflict import MGDA
from lossbalance.penalties import L2
from lossbalance.weighting import Equal, GradBalance, Uncertainty
from tests.callbacks.modules import (
    PROBES,
    TERMS,
    Drawn,
    OwnsCriterion,
    TwoHeads,
    assert_equal,
    balance,
    batches,
    make_trainer,
    scheme,
)

SETTINGS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "clipping by norm": {"gradient_clip_val": 0.5},
    "clipping by value": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "64-true": {"precision": "64-true"},
}


@pytest.mark.parametrize("name", ["gradbalance", "fixed", "uncertainty"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_module_that_knows_nothing_trains_as_one_that_weighs_its_losses_itself(name, options, tmp_path):
    if name == "uncertainty" and "gradient_clip_val" in options:
        pytest.skip("the owner's clipping counts the parameters of the scheme in")
    stranger, owner = TwoHeads(), OwnsCriterion(scheme(name))

    for module, callbacks in ((stranger, [balance(name)]), (owner, [])):
        make_trainer(callbacks, tmp_path, max_epochs=2, **options).fit(module, batches(16, 2))

    assert_equal(stranger, owner)


def test_a_compiled_module_trains_alike_and_keeps_what_the_compiler_put_there(tmp_path):
    plain, compiled = TwoHeads(), TwoHeads()
    make_trainer([balance("gradbalance")], tmp_path, max_steps=3).fit(plain, batches(16, 2))
    optimized = torch.compile(compiled, backend="aot_eager")

    make_trainer([balance("gradbalance")], tmp_path, max_steps=3).fit(optimized, batches(16, 2))

    torch.testing.assert_close(plain.trunk.weight, compiled.trunk.weight)
    assert "balance" not in repr(vars(compiled).get("training_step"))


def _configure(make_optimizer, make_scheduler=None, interval="step"):
    def configure_optimizers(self):
        optimizer = make_optimizer(self)
        if make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make_scheduler(optimizer), "interval": interval}}

    return configure_optimizers


OPTIMIZERS = {
    "AdamW with decay": _configure(lambda m: torch.optim.AdamW(m.parameters(), weight_decay=0.9)),
    "part of the module": _configure(lambda m: torch.optim.SGD(m.trunk.parameters(), lr=0.01)),
    "LambdaLR": _configure(
        lambda m: torch.optim.SGD(m.parameters(), lr=1e-4),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, [lambda step: 0.9**step]),
    ),
    "OneCycleLR": _configure(
        lambda m: torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=[1e-3], total_steps=20),
    ),
    "LBFGS": _configure(lambda m: torch.optim.LBFGS(m.parameters(), max_iter=3)),
}


@pytest.mark.parametrize("configure", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_learned_weights_take_one_step_of_adam_for_each_step_of_any_optimizer(configure, tmp_path):
    criterion = WeightedLoss(Uncertainty(TERMS, initial_log_variance=0.0))
    module = type("Module", (Drawn,), {"configure_optimizers": configure})()
    callback = BalanceLosses(criterion, lr=0.1)

    make_trainer([callback], tmp_path, max_steps=3).fit(module, batches(8, 1))

    (state,) = callback.state_dict()["optimizer"]["state"].values()
    assert state["step"].item() == 3
    # The losses are far above exp(0), so each of the first steps of Adam is about its learning rate, with no decay.
    assert criterion.weighting.log_variance.tolist() == pytest.approx([0.3, 0.3], abs=0.05)


def test_learned_weights_follow_a_loop_written_by_hand_over_accumulated_batches(tmp_path):
    module, criterion = TwoHeads(), WeightedLoss(Uncertainty(TERMS))
    make_trainer([BalanceLosses(criterion, lr=0.05)], tmp_path, max_epochs=1, accumulate_grad_batches=2).fit(
        module, batches(16, 2)
    )

    twin, weighting = TwoHeads(), Uncertainty(TERMS)
    optimizers = [
        torch.optim.Adam(twin.parameters(), lr=0.01),
        torch.optim.Adam(weighting.parameters(), lr=0.05, eps=1e-4),
    ]
    by_hand = WeightedLoss(weighting)
    for i, batch in enumerate(batches(16, 2)):
        (by_hand(twin.losses(*batch)) / 2).backward()
        if i % 2:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    torch.testing.assert_close(criterion.weighting.log_variance, weighting.log_variance)
    torch.testing.assert_close(module.trunk.weight, twin.trunk.weight)


@pytest.mark.parametrize("mode", ["gradient", "decoupled"])
def test_penalties_outside_the_total_are_applied_by_the_optimizer_of_the_module(mode, tmp_path):
    def penalized():
        return WeightedLoss(Equal(TERMS), penalties={"l2": L2(0.1, mode=mode)})

    module, twin = TwoHeads(), TwoHeads()
    callback = BalanceLosses(penalized())
    monitor = LossMonitor(pictures=False)
    make_trainer([monitor, callback], tmp_path, max_epochs=1).fit(module, batches(16, 2))

    criterion, optimizer = penalized(), twin.configure_optimizers()
    criterion.attach(optimizer, twin)
    for batch in batches(16, 2):
        optimizer.zero_grad()
        criterion(twin.losses(*batch), module=twin).backward()
        optimizer.step()
    assert_equal(module, twin)
    assert monitor.last_epoch["l2"]["contribution"] == pytest.approx(criterion.last.penalties["l2"].item())


class Manual(TwoHeads):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Silent(TwoHeads):
    def training_step(self, batch, batch_idx):
        return {"loss": self.losses(*batch)["main"]}


class Misnamed(TwoHeads):
    def training_step(self, batch, batch_idx):
        losses = self.losses(*batch)
        return {"loss": losses["main"], "losses": {"aux": losses["aux"], "mian": losses["main"]}}


REFUSALS = {
    "manual optimization": (Manual, balance, "needs automatic optimization, and Manual has switched it off"),
    "no losses": (Silent, balance, r"`training_step` of Silent must return .* got a dict with \['loss'\]"),
    "other names": (Misnamed, balance, r"missing \['main'\]; unknown 'mian' \(did you mean 'main'\?\)"),
    "no such module": (
        TwoHeads,
        lambda: BalanceLosses(WeightedLoss(Equal(TERMS)), probes={"aux": "aux_hed"}),
        r"`probes` must name a module of TwoHeads, got 'aux_hed' \(did you mean 'aux_head'\?\)",
    ),
    "no such parameter": (
        TwoHeads,
        lambda: BalanceLosses(WeightedLoss(GradBalance(TERMS)), shared="trunk.wight"),
        r"`shared` must name a parameter of TwoHeads, got 'trunk.wight' \(did you mean 'trunk.weight'\?\)",
    ),
}


@pytest.mark.parametrize(("make_module", "make_callback", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_work_is_refused_and_the_module_left_alone(make_module, make_callback, message, tmp_path):
    module = make_module()

    with pytest.raises(ValueError, match=message):
        make_trainer([make_callback()], tmp_path, max_epochs=1).fit(module, batches(4, 2))

    assert "training_step" not in vars(module)
    assert not module.aux_head._forward_pre_hooks


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_branch_combines_the_gradients_of_a_module_that_is_not_edited(options, tmp_path):
    class Branched(OwnsCriterion):
        def losses(self, x, y):
            h = self.criterion.branch(self.trunk(x).tanh())
            aux, main = self.aux_head(h["aux"]), self.main_head(h["main"])
            return {"aux": (aux - 30 * y).square().mean(), "main": (main - y.square()).square().mean()}

    stranger, owner = TwoHeads(), Branched(Equal(TERMS))
    owner.criterion = WeightedLoss(Equal(TERMS), conflict=MGDA())
    callback = BalanceLosses(WeightedLoss(Equal(TERMS), conflict=MGDA()), probes=PROBES, branch="trunk")

    for module, callbacks in ((stranger, [callback]), (owner, [])):
        make_trainer(callbacks, tmp_path, max_epochs=2, **options).fit(module, batches(16, 2))

    assert_equal(stranger, owner)
    assert callback.criterion.last.cosines["aux", "main"].isfinite()


def test_a_branch_without_heads_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`branch` must come with `probes`.* got branch='trunk' alone: add something"):
        BalanceLosses(WeightedLoss(Equal(TERMS)), branch="trunk")


def test_an_unknown_term_of_a_probe_is_refused_at_once():
    with pytest.raises(ValueError, match=r"`probes` .* got 'axu' \(did you mean 'aux'\?\)"):
        BalanceLosses(WeightedLoss(Equal(TERMS)), probes={"axu": "aux_head"})


def test_the_module_is_left_as_it_was_found_also_after_a_second_fit(tmp_path):
    module, callback = TwoHeads(), balance("gradnorm")
    for _ in range(2):
        make_trainer([callback], tmp_path, max_epochs=1).fit(module, batches(4, 2))

        assert "training_step" not in vars(module)
        assert not module.aux_head._forward_pre_hooks
        assert set(module.training_step(next(iter(batches(4, 2))), 0)) == {"loss", "losses"}


def test_what_the_step_returns_reaches_other_callbacks_detached_and_complete(tmp_path):
    class Listener(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.heard = outputs

    listener = Listener()
    make_trainer([listener, balance()], tmp_path, max_steps=1).fit(TwoHeads(), batches(4, 2))

    total = 0.5 * listener.heard["losses"]["aux"] + listener.heard["losses"]["main"]
    torch.testing.assert_close(listener.heard["loss"], total)
    assert not any(loss.requires_grad for loss in listener.heard["losses"].values())


def test_the_learning_rate_finder_leaves_the_callback_as_it_found_it(tmp_path):
    module, callback = TwoHeads(), balance("gradbalance")
    trainer = make_trainer([callback], tmp_path, max_epochs=1)
    before = callback.criterion.state_dict()["weighting.average"].clone()

    found = pl.tuner.Tuner(trainer).lr_find(module, batches(64, 1), num_training=20)

    assert len(found.results["lr"]) > 0
    torch.testing.assert_close(callback.state_dict()["criterion"]["weighting.average"], before)
    trainer.fit(module, batches(16, 2))
    assert "training_step" not in vars(module)


def test_a_rehearsal_runs(tmp_path):
    module = TwoHeads()
    make_trainer([LossMonitor(), balance("uncertainty")], tmp_path, fast_dev_run=True).fit(module, batches(4, 2))
    assert not list(tmp_path.rglob("*.png"))


def test_the_callbacks_work_in_the_other_namespace(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Other(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = TwoHeads()

        def training_step(self, batch, batch_idx):
            return self.net.training_step(batch, batch_idx)

        def configure_optimizers(self):
            return self.net.configure_optimizers()

    other, twin = Other(), TwoHeads()
    probes = {term: f"net.{name}" for term, name in PROBES.items()}
    monitors = [LossMonitor(), LossMonitor()]
    there = [AlphaSchedule({0: 0.0, 2: 1.0}), monitors[0], BalanceLosses(WeightedLoss(scheme("alpha")), probes=probes)]
    here = [AlphaSchedule({0: 0.0, 2: 1.0}), monitors[1], balance("alpha")]

    make_trainer(there, tmp_path, lightning, max_epochs=3).fit(other, batches(16, 2))
    make_trainer(here, tmp_path, max_epochs=3).fit(twin, batches(16, 2))

    assert_equal(other.net, twin)
    assert monitors[0].last_epoch == monitors[1].last_epoch


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"probes": {"aux": 3}}, r"`probes\['aux'\]` .* 'net.head', got 3"), ({"shared": [3]}, "`shared` .*, got 3")],
)
def test_what_is_no_name_is_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        BalanceLosses(WeightedLoss(Equal(TERMS)), **settings)
