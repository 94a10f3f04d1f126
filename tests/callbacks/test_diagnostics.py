"""Each diagnosis is made of a training that has just that fault, and none of one that has none."""

import math
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from lossbalance import WeightedLoss
from lossbalance.callbacks import BalanceLosses, LossMonitor
from lossbalance.callbacks.diagnostics import diagnose
from lossbalance.callbacks.epochs import Epochs
from lossbalance.cli.training.summary_table import show
from lossbalance.conflict import MGDA
from lossbalance.penalties import L2
from lossbalance.weighting import Constrained, Equal, Fixed, GradBalance, Uncertainty, Weighting
from lossbalance.weighting.base import weighted_sum
from tests.callbacks.modules import TwoHeads, batches, make_trainer
from tests.cli.in_process import run_here

HEADS = ("first", "second", "third")


class Heads(TwoHeads):
    """Linear heads on a trunk, with a loss each; nothing is wrong with them."""

    SCALES: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in HEADS})

    def losses(self, x, y):
        h = self.trunk(x)
        targets = (y, x[:, :1] + 1, x[:, 1:2] - 1)
        return {
            name: scale * (self.heads[name](h) - target).square().mean()
            for name, target, scale in zip(HEADS, targets, self.SCALES, strict=True)
        }

    def training_step(self, batch, batch_idx):
        losses = self.losses(*batch)
        return {"loss": sum(losses.values()), "losses": losses}

    def validation_step(self, batch, batch_idx):
        return {"losses": self.losses(*batch)}


class Starved(Heads):
    SCALES = (1.0, 1.0, 1e-3)


class Dominated(Heads):
    SCALES = (1.0, 0.02, 0.02)


class Opposed(Heads):
    """Two heads that are the same and stay so want opposite outputs."""

    def __init__(self):
        super().__init__()
        self.heads["second"].load_state_dict(self.heads["first"].state_dict())
        for name in ("first", "second"):
            self.heads[name].requires_grad_(False)

    def losses(self, x, y):
        h = self.trunk(x)
        first, second, third = (self.heads[name](h) for name in HEADS)
        return {
            "first": (first - 3).square().mean(),
            "second": (second + 3).square().mean(),
            "third": (third - y).square().mean(),
        }


class Overfits(Heads):
    """Learns by heart what the validation data contradict."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        losses = self.losses(x, y)
        return {"losses": losses | {"first": (self.heads["first"](self.trunk(x)) + y).square().mean()}}


class Moves(Weighting):
    """Multiplies the weight of the first term in each step."""

    def __init__(self, terms, factor):
        super().__init__(terms)
        self.factor = factor
        self.register_buffer("weight", torch.ones(len(self.terms)))

    def observe(self, observation):
        self.weight[0] *= self.factor

    def weigh(self, losses, present):
        return weighted_sum(losses, self.weight, present)


class Still(Heads):
    """The first loss cannot fall, though its gradient is not 0."""

    def losses(self, x, y):
        losses = super().losses(x, y)
        wave = self.heads["first"].bias.sum()
        return losses | {"first": 1 + (wave - wave.detach()) + 1e-5 * (self.global_step % 7)}


PROBES = {name: f"heads.{name}" for name in HEADS}


def balancer(weighting=None, penalties=None, conflict=None, **options):
    criterion = WeightedLoss(weighting or Equal(HEADS), penalties, conflict=conflict)
    return BalanceLosses(criterion, **({"probes": PROBES} | options))


def fit(module, callback, folder, epochs=6, **options):
    monitor, data = LossMonitor(pictures=False), batches(16, 4)
    make_trainer([monitor, callback], folder, max_epochs=epochs, **options).fit(module, data, data)
    return monitor


FAULTS = {
    "starved": (
        Starved,
        balancer,
        r"'third' has had 0\.\d\d% of the gradient since epoch 0: try InverseLoss \(`loss=inverse_loss`\), or "
        r"GradBalance with ratios \(`loss=gradbalance` 'loss.ratios=\{first: 1, second: 1, third: 4\}'\)",
    ),
    "dominant": (Dominated, balancer, r"'first' takes 9\d\.\d% of the gradient since epoch 0 .*`loss=gradbalance`"),
    "conflict": (
        Opposed,
        lambda: balancer(branch="trunk"),
        r"'first' and 'second' point against each other in \d+% of the steps since epoch 0.* MGDA or IMTLG",
    ),
    "runaway": (
        Heads,
        lambda: balancer(Moves(HEADS, 2.0), probes={}),
        r"The weight of 'first' runs away: from \S+ to \S+, above a thousand times the first since epoch \d",
    ),
    "collapse": (
        Heads,
        lambda: balancer(Moves(HEADS, 0.3), probes={}),
        r"The weight of 'first' has collapsed from \S+ to \S+, below a thousandth since epoch \d.*`loss=fixed`",
    ),
    "stuck": (
        Still,
        lambda: balancer(Moves(HEADS, 1.1), probes={}),
        r"The loss of 'first' has stopped falling since epoch \d, at 1.*, while its weight grows",
    ),
    "useless": (
        Heads,
        lambda: balancer(penalties={"l2": L2(1e-7)}),
        r"The penalty 'l2' does nothing: it has had \S+ of the gradient .* since epoch 0: raise its strength",
    ),
    "overwhelming": (
        Heads,
        lambda: balancer(penalties={"l2": L2(1e4)}),
        r"The penalty 'l2' does everything: .* since epoch 0: lower its strength",
    ),
    "overfit": (
        Overfits,
        balancer,
        r"The loss of 'first' falls in training and rises in validation since epoch 0, there from .*early_stopping",
    ),
    "limit": (
        Heads,
        lambda: balancer(Constrained(HEADS, limits={"first": -1.0}, lr=1e3, max_weight=10.0), probes={}),
        r"The limit of 'first', -1, is out of reach: .* `max_weight`=10",
    ),
}


@pytest.mark.filterwarnings(
    "ignore:The ((weight|loss|limit|penalty)|gradients).*:UserWarning", "ignore:'.*:UserWarning"
)
@pytest.mark.parametrize(("make_module", "make_callback", "message"), FAULTS.values(), ids=FAULTS)
def test_a_training_with_one_fault_gets_its_diagnosis_and_no_other(make_module, make_callback, message, tmp_path):
    monitor = fit(make_module(), make_callback(), tmp_path)
    assert len(monitor.diagnoses) == 1, monitor.diagnoses
    (diagnosis,) = monitor.diagnoses
    assert re.search(message, diagnosis), diagnosis


SOUND = {
    "equal": balancer,
    "gradbalance": lambda: balancer(GradBalance(HEADS)),
    "uncertainty": lambda: balancer(Uncertainty(HEADS)),
    "a penalty": lambda: balancer(penalties={"l2": L2(share=0.1)}),
    "a term with weight 0": lambda: balancer(Fixed(HEADS, {"first": 0.0, "second": 1.0, "third": 1.0})),
    "a limit within reach": lambda: balancer(Constrained(HEADS, limits={"first": 100.0}), probes={}),
}


@pytest.mark.parametrize("make_callback", SOUND.values(), ids=SOUND)
def test_a_training_without_a_fault_gets_none(make_callback, tmp_path):
    assert fit(Heads(), make_callback(), tmp_path).diagnoses == []  # a warning would be an error


def test_conflicts_that_an_aggregator_settles_are_no_fault(tmp_path):
    assert fit(Opposed(), balancer(conflict=MGDA(), branch="trunk"), tmp_path).diagnoses == []


def test_a_fault_is_a_warning_once_and_a_diagnosis_as_long_as_it_lasts(tmp_path):
    with pytest.warns(UserWarning, match="'third' has had") as caught:
        monitor = fit(Starved(), balancer(), tmp_path)
    assert len([warning for warning in caught if "'third' has had" in str(warning.message)]) == 1
    share = monitor.last_epoch["third"]["gradient_share"]
    assert f"{share:.2%}" in monitor.diagnoses[0]  # of the last epoch


def test_since_counts_the_epochs_back_to_where_it_began():
    shares = [0.5, 0.005, 0.5, 0.002, 0.002]
    history = [
        {"epoch": i, "weight/a": 1.0, "weight/b": 1.0, "weight/c": 1.0}
        | {"gradient_share/a": share, "gradient_share/b": (1 - share) / 2, "gradient_share/c": (1 - share) / 2}
        for i, share in enumerate(shares)
    ]
    epochs = Epochs(["a", "b", "c"], [], {"a", "b", "c"}, {}, history, [])
    assert [message.partition(":")[0] for _, message in diagnose(epochs)] == [
        "'a' has had 0.20% of the gradient since epoch 3"
    ]
    assert list(diagnose(Epochs(["a", "b", "c"], [], {"a", "b", "c"}, {}, history[:4], []))) == []
    assert math.isnan(epochs.mean("loss", "a"))


@pytest.mark.filterwarnings("ignore:.*dominates the other terms")
def test_the_command_line_shows_what_is_wrong_and_keeps_it(tmp_path, capsys):
    summary = run_here(tmp_path, "task=raw_pixels", "loss=equal", "trainer.max_epochs=2")
    (diagnosis,) = summary["diagnoses"]
    assert "'aux' takes" in diagnosis
    show(summary)
    assert diagnosis in capsys.readouterr().out


def test_a_warning_is_one_line_without_file_and_code():
    program = "from lossbalance._utils.warn import warn_user; warn_user('`a` is wrong: do b.')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: `a` is wrong: do b.\n"
