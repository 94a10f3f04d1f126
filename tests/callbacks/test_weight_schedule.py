import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lossbalance import WeightedLoss
from lossbalance.callbacks import AlphaSchedule, BalanceLosses, Schedule, WeightSchedule
from lossbalance.penalties import L2
from tests.callbacks.modules import (
    PROBES,
    SCHEMES,
    Drawn,
    TwoHeads,
    assert_equal,
    assert_same_state,
    balance,
    batches,
    make_trainer,
    scheme,
)
from tests.callbacks.test_resuming import checkpoints
from tests.cli.in_process import ROOT, run_here

ROOT_HALF = 0.5**0.5
SHAPES = {  # at 0, 1, 2, 4, 6, 8 and 99 of 8
    "constant": [0.2] * 7,
    "linear": [0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.0],
    "cosine": [0.2, 0.6 - 0.4 * 0.9238795, 0.6 - 0.4 * ROOT_HALF, 0.6, 0.6 + 0.4 * ROOT_HALF, 1.0, 1.0],
    "steps": [0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0],
    "cyclical": [0.2, 1.0, 0.2, 0.2, 0.2, 1.0, 1.0],
    "exponential": [0.2, 0.2 * 5**0.125, 0.2 * 5**0.25, 0.2 * 5**0.5, 0.2 * 5**0.75, 1.0, 1.0],
}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.items())
def test_a_number_goes_from_its_start_to_its_end_and_stays_there(shape, expected):
    schedule = Schedule(0.2, 1.0, over="8 epochs", shape=shape)
    assert [schedule.value(time) for time in (0, 1, 2, 4, 6, 8, 99)] == pytest.approx(expected)


class Factors(pl.Callback):
    """Notes the factor of a term in each step."""

    def __init__(self, balancer, name="aux"):
        self.balancer, self.name, self.seen = balancer, name, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(self.balancer.criterion.factors[self.name])


@pytest.mark.parametrize(
    ("over", "expected"),
    [("2 epochs", [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]), ("2 steps", [0.0, 0.25, 0.5, 0.5, 0.5, 0.5])],
)
@pytest.mark.parametrize("name", ["aux", "l2"])
def test_time_is_counted_in_epochs_or_in_steps_of_the_optimizer(over, expected, name, tmp_path):
    balancer = BalanceLosses(WeightedLoss(scheme("uncertainty"), {"l2": L2(0.1)}))
    watch, schedule = Factors(balancer, name), WeightSchedule({name: Schedule(0.0, 0.5, over)})

    make_trainer([schedule, balancer, watch], tmp_path, max_epochs=3).fit(TwoHeads(), batches(4, 2))

    assert watch.seen == expected


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("name", SCHEMES)
def test_a_run_resumed_in_the_middle_ends_as_one_that_never_stopped(name, tmp_path):
    def callbacks():
        schedules = {"aux": Schedule(0.0, 1.0, "4 steps", "cosine"), "l2": Schedule(1.0, 0.1, "5 steps", "exponential")}
        balancer = BalanceLosses(WeightedLoss(scheme(name), {"l2": L2(0.1)}), probes=PROBES)
        return balancer, [WeightSchedule(schedules), balancer]

    whole, (balancer, running) = Drawn(), callbacks()
    saving = [*running, checkpoints(tmp_path)]
    make_trainer(saving, tmp_path, max_steps=6, enable_checkpointing=True).fit(whole, batches(8, 1))
    for step in (1, 3):
        module, (resumed, going_on) = Drawn(), callbacks()
        trainer = make_trainer(going_on, tmp_path, max_steps=6)
        trainer.fit(module, batches(8, 1), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_equal(module, whole)
        assert_same_state(resumed.state_dict(), balancer.state_dict())


def test_alpha_has_a_schedule_of_its_own_kind():
    assert issubclass(AlphaSchedule, WeightSchedule)
    assert AlphaSchedule({0: 0.0, 10: 0.5}).value(5) == Schedule(0.0, 0.5, "10 epochs").value(5) == 0.25


def test_the_configuration_makes_one():
    config = OmegaConf.load(ROOT / "conf" / "callbacks" / "weight_schedule.yaml").weight_schedule
    schedule = instantiate(config).schedules["aux"]
    assert repr(schedule) == "Schedule(start=0, end=1, over='10 epochs', shape='linear')"


def test_the_command_line_moves_a_weight(tmp_path):
    words = ["callbacks=weight_schedule", "callbacks.weight_schedule.schedules.aux.over='2 epochs'", "loss=equal"]
    summary = run_here(tmp_path, *words, "trainer.max_epochs=2")
    assert summary["last_epoch"]["aux"]["weight"] == 0.5


REFUSALS = [
    (lambda: Schedule(0, 1, over="10"), ValueError, "`over` must be a positive number and a unit, '10 epochs'"),
    (lambda: Schedule(0, 1, over="0 steps"), ValueError, "`over` must be a positive number"),
    (lambda: Schedule(-1, 1), ValueError, "`start` must be a number, finite and not negative, got -1"),
    (lambda: Schedule(0, "1"), TypeError, "`end` must be a number"),
    (lambda: Schedule(0, 1, shape="lineer"), ValueError, r"`shape` must be one of .* \(did you mean 'linear'\?\)"),
    (lambda: Schedule(0, 1, shape="exponential"), ValueError, "`start` and `end` must be above 0 for 'exponential'"),
    (lambda: WeightSchedule({"kl": 0.5}), TypeError, "`schedules` must map terms to schedules, got .*: write"),
    (lambda: WeightSchedule({}), ValueError, "`schedules` must have at least one"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSALS)
def test_what_is_no_schedule_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_unknown_term_is_refused_when_training_starts(tmp_path):
    callbacks = [WeightSchedule({"axu": Schedule(0, 1)}), balance()]
    with pytest.raises(ValueError, match=r"`schedules` must be one of \['aux', 'main'\], got 'axu' \(did you mean"):
        make_trainer(callbacks, tmp_path, max_epochs=1).fit(TwoHeads(), batches(4, 2))
