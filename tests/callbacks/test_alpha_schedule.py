import pytest
import pytorch_lightning as pl

from lossbalance.callbacks import AlphaSchedule
from tests.callbacks.modules import TwoHeads, balance, batches, make_trainer


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("linear", [0.2, 0.2, 0.4, 0.5, 0.6, 0.6]), ("steps", [0.2, 0.2, 0.2, 0.2, 0.6, 0.6])],
)
def test_alpha_goes_from_point_to_point(shape, expected):
    schedule = AlphaSchedule({2: 0.2, 10: 0.6}, shape)
    assert [schedule.alpha(time) for time in (0, 2, 6, 8, 10, 99)] == pytest.approx(expected)


def test_the_cosine_starts_and_ends_level_and_is_half_way_in_the_middle():
    schedule = AlphaSchedule([[0, 0.0], [4, 1.0]], "cosine")
    assert [schedule.alpha(time) for time in (0, 1, 2, 4)] == pytest.approx([0, (2 - 2**0.5) / 4, 0.5, 1])


def test_a_constant_is_one_number():
    assert AlphaSchedule(0.3, "constant").alpha(5) == 0.3


class Watch(pl.Callback):
    def __init__(self, balancer):
        self.balancer, self.alphas = balancer, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.alphas.append(round(self.balancer.criterion.weights["aux"].item(), 4))


@pytest.mark.parametrize(
    ("unit", "expected"), [("epochs", [0.0, 0.0, 0.25, 0.25, 0.5, 0.5]), ("steps", [0.0, 0.25, 0.5, 0.5, 0.5, 0.5])]
)
def test_time_is_counted_in_epochs_or_in_steps_of_the_optimizer(unit, expected, tmp_path):
    balancer = balance("alpha")
    watch = Watch(balancer)

    schedule = AlphaSchedule({0: 0.0, 2: 0.5}, unit=unit)
    make_trainer([schedule, balancer, watch], tmp_path, max_epochs=3).fit(TwoHeads(), batches(4, 2))

    assert watch.alphas == expected


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
def test_a_resumed_run_goes_on_where_the_schedule_was(tmp_path):
    first = make_trainer([AlphaSchedule({0: 0.0, 4: 1.0}, unit="steps"), balance("alpha")], tmp_path, max_epochs=1)
    first.fit(TwoHeads(), batches(4, 2))
    first.save_checkpoint(tmp_path / "last.ckpt")
    balancer = balance("alpha")
    watch = Watch(balancer)

    resumed = make_trainer([AlphaSchedule({0: 0.0, 4: 1.0}, unit="steps"), balancer, watch], tmp_path, max_epochs=2)
    resumed.fit(TwoHeads(), batches(4, 2), ckpt_path=tmp_path / "last.ckpt")

    assert watch.alphas == [0.5, 0.75]


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        ({0: 1.5}, {}, r"`points\[0\]` must be an alpha in \[0, 1\], got 1.5"),
        ({-1: 0.5}, {}, "`points` must be at times of 0 or later, got -1"),
        ({}, {}, "`points` must be one number for 'constant', else"),
        ({0: 0.1, 1: 0.2}, {"shape": "constant"}, "`points` must be one number for 'constant', else"),
        (0.5, {"shape": "cosin"}, r"`shape` must be one of .* \(did you mean 'cosine'\?\)"),
        (0.5, {"unit": "step"}, r"`unit` must be one of .* \(did you mean 'steps'\?\)"),
    ],
)
def test_what_is_no_schedule_is_refused(points, settings, message):
    with pytest.raises(ValueError, match=message):
        AlphaSchedule(points, **settings)


def test_a_scheme_without_alpha_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`AlphaSchedule` needs the scheme to be Alpha, got Equal"):
        make_trainer([AlphaSchedule(0.5), balance("equal")], tmp_path, max_epochs=1).fit(TwoHeads(), batches(4, 2))
