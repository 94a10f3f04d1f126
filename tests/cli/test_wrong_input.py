"""Whatever is wrong with what is typed, one message names the argument, what must hold, and what came in.

A new case is one line: the words, and what the message must say.
"""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from lossbalance.cli.explain import explain
from tests.cli.program import train_here

TINY = [f"trainer.{key}=1" for key in ("max_epochs", "limit_train_batches", "limit_val_batches", "limit_test_batches")]
L2 = "penalty=l2 penalty."
NUMBER, FINITE = (f"must be a {kind}number, 0 or more, got" for kind in ("", "finite "))
WORDS = [
    ("loss=alpah", "`loss` must be one of [", "got 'alpah' (did you mean 'alpha'?)"),
    ("loss=null", "`loss`, must be one of its choices, got null"),
    ("task=nope", "`task` must be one of [", "got 'nope'"),
    ("hydra/sweeper=optuna", "`hydra/sweeper` must be one", "got 'optuna': `lossbalance search` searches by Optuna"),
    ("optimizer=adm", "`optimizer` must be one of [", "(did you mean 'adam'?)"),
    ("trainer=gpuu", "`trainer` must be one of [", "(did you mean 'gpu'?)"),
    ("penalty=l3", "`penalty` must be one of [", "got 'l3'"),
    ("logger=cvs", "`logger` must be one of [", "(did you mean 'csv'?)"),
    ("callbacks=nope", "`callbacks` must be one of [", "got 'nope'"),
    ("conflict=nope", "`conflict` must be one of [", "got 'nope'"),
    ("experiment=nope", "`experiment` must be one of [", "got 'nope'"),
    ("~loss", "`loss` must be chosen, got none"),
    ("~task", "`task` must be chosen, got none"),
    ("~trainer", "`trainer` must be chosen, got none"),
    ("~optimizer", "`optimizer` must be chosen, got none"),
    ("alpha=abc", "`alpha`: Value 'abc' of type 'str' could not be converted to Float"),
    ("alpha=1.5", "`alpha` must be a number in [0, 1], got 1.5"),
    ("alpha=-0.1", "`alpha` must be a number in [0, 1], got -0.1"),
    ("alpha=nan", "`alpha` must be a number in [0, 1], got nan"),
    ("alpha=inf", "`alpha` must be a number in [0, 1], got inf"),
    ("alpha=null", "`alpha`: field 'alpha' is not Optional"),
    ("alpha=[0.1]", "`alpha`: Value '[0.1]' of type 'list'"),
    ("alpha={", "`alpha={` cannot be read"),
    ("alpha", "`alpha` cannot be read"),
    ("=3", "A group, such as `loss`, must be one of its choices, got int"),
    ("alhpa=0.3", "`alhpa` is not a setting (did you mean 'alpha'?)"),
    ("+alhpa=0.3", "`alhpa` is not a setting (did you mean 'alpha'?)"),
    ("seed=-1", "`seed` must be a whole number, from 0 to 4294967295, got -1"),
    ("seed=99999999999", "`seed` must be a whole number, from 0 to 4294967295, got 99999999999"),
    ("seed=abc", "`seed`: Value 'abc'"),
    ("seed=1.5", "`seed`: Value '1.5'"),
    ("seed=null", "`seed`: field 'seed' is not Optional"),
    ("fold=-1", "`fold` must be a whole number, from 0 to 3, got -1"),
    ("fold=4", "`fold` must be a whole number, from 0 to 3, got 4"),
    ("folds=1", "`folds` must be a whole number, 2 or more, got 1"),
    ("folds=100000", "`folds` must be a whole number, from 2 to 139, got 100000"),
    ("folds=abc", "`folds`: Value 'abc'"),
    ("threads=0", "`threads` must be a whole number, 1 or more, got 0"),
    ("threads=abc", "`threads`: Value 'abc'"),
    ("weight_sum=-1", "`weight_sum` must be a positive, finite number or None, got -1"),
    ("weight_sum=inf", "`weight_sum` must be a positive, finite number or None, got inf"),
    ("weight_sum=abc", "`weight_sum`: Value 'abc'"),
    ("loss_sum=-1", "`loss_sum` must be"),
    ("test=maybe", "`test`", "maybe"),
    ("resume=perhaps", "`resume`: Value 'perhaps' is not a valid bool"),
    ("trainer.max_epochs=0", "`trainer.max_epochs` must be a whole number, 1 or more, got 0"),
    ("trainer.max_epochs=-3", "`max_epochs` must be", "-3"),
    ("trainer.max_epochs=-1", "`trainer.max_epochs` must be a whole number", "training would not end"),
    ("trainer.max_epochs=null", "`trainer.max_epochs` must be a whole number", "training would not end"),
    ("trainer.max_epochs=abc", "`trainer.max_epochs`: Value 'abc'"),
    ("trainer.max_epochs=1.5", "`trainer.max_epochs`: Value '1.5'"),
    ("trainer.max_steps=0", "`trainer.max_steps` must be a whole number, 1 or more, got 0"),
    ("trainer.max_steps=-5", "`trainer.max_steps` must be a whole number, 1 or more, got -5"),
    ("trainer.max_time=abc", "`trainer.max_time`", "'abc'"),
    ("trainer.accumulate_grad_batches=0", "`trainer.accumulate_grad_batches` must be a whole number, 1 or more, got 0"),
    ("trainer.accumulate_grad_batches=abc", "`trainer.accumulate_grad_batches`: Value 'abc'"),
    ("trainer.gradient_clip_val=-1", f"`trainer.gradient_clip_val` {NUMBER} -1"),
    ("trainer.gradient_clip_val=inf", f"`trainer.gradient_clip_val` {FINITE} inf"),
    ("trainer.gradient_clip_val=nan", f"`trainer.gradient_clip_val` {NUMBER} nan"),
    ("trainer.gradient_clip_val=abc", "`trainer.gradient_clip_val`: Value 'abc'"),
    ("trainer.gradient_clip_algorithm=nrom", "`trainer.gradient_clip_algorithm`", "nrom"),
    ("trainer.log_every_n_steps=-1", "`trainer.log_every_n_steps` must be a whole number, 0 or more, got -1"),
    ("trainer.check_val_every_n_epoch=0", "`trainer.check_val_every_n_epoch` must be a whole number, 1 or more, got 0"),
    ("trainer.check_val_every_n_epoch=5", "`trainer.check_val_every_n_epoch` must be at most trainer.max_epochs=1"),
    ("trainer.limit_train_batches=0", "`trainer.limit_train_batches` must be above 0, got 0"),
    ("trainer.limit_train_batches=-1", "limit_train_batches", "-1"),
    ("trainer.limit_train_batches=1.5", "limit_train_batches", "1.5"),
    ("trainer.limit_train_batches=abc", "`trainer.limit_train_batches`: Value 'abc'"),
    ("trainer.limit_val_batches=0", "`trainer.limit_val_batches` must be above 0, got 0"),
    ("trainer.limit_val_batches=-1", "limit_val_batches", "-1"),
    ("trainer.limit_test_batches=1.5", "limit_test_batches", "1.5"),
    ("trainer.overfit_batches=-1", "overfit_batches", "-1"),
    ("trainer.val_check_interval=0", "`trainer.val_check_interval` must be above 0, got 0"),
    ("trainer.val_check_interval=100000", "`val_check_interval` (100000) must be"),
    ("trainer.precision=17", "`trainer.precision`", "17"),
    ("trainer.accelerator=gpuu", "`trainer.accelerator`", "gpuu"),
    ("trainer.strategy=dpp", "`trainer.strategy`", "dpp"),
    ("trainer.devices=0", "`trainer.devices`", "0"),
    ("trainer.devices=abc", "`trainer.devices`", "abc"),
    ("trainer.devices=999", "`trainer.devices` must be at most"),
    ("trainer.num_nodes=0", "num_nodes", "0"),
    ("trainer.profiler=nope", "profiler", "nope"),
    ("trainer.nope=3", "`trainer.nope` is not a setting"),
    ("trainer.max_epoch=3", "`trainer.max_epoch` is not a setting (did you mean 'max_epochs'?)"),
    ("optimizer.lr=inf", f"`optimizer.lr` {FINITE} inf"),
    ("optimizer.lr=nan", f"`optimizer.lr` {NUMBER} nan"),
    ("optimizer.lr=-1", f"`optimizer.lr` {NUMBER} -1"),
    ("optimizer.lr=abc", f"`optimizer.lr` {NUMBER} 'abc'"),
    ("optimizer.lr=null", "`optimizer.lr` must be a number, 0 or more, got None"),
    ("optimizer.weight_decay=-1", f"`optimizer.weight_decay` {NUMBER} -1"),
    ("optimizer.weight_decay=abc", f"`optimizer.weight_decay` {NUMBER} 'abc'"),
    ("optimizer=sgd optimizer.momentum=-1", f"`optimizer.momentum` {NUMBER} -1"),
    ("optimizer.nope=1", "`optimizer.nope` is not a setting"),
    ("+optimizer.nope=1", "`optimizer` must be what torch.optim.Adam takes", "'nope'"),
    ("optimizer._target_=torch.optim.Adm", "`optimizer`: Error", "'torch.optim.Adm'"),
    ("optimizer._target_=builtins.print", "`optimizer` must be what builtins.print takes"),
    ("task.batch_size=0", "`batch_size` must be a whole number, 1 or more, got 0"),
    ("task.lr=inf", f"`optimizer.lr` {FINITE} inf"),
    ("task.lr=abc", "`task.lr`: Value 'abc'"),
    ("task.width=0", "`width` must be a whole number, 1 or more, got 0"),
    ("task.name=../../escape", "`task.name` must be of letters", "got '../../escape'"),
    ("task.name=", "`task.name` must be of letters", "got ''"),
    ("task.name=null", "`task.name`: field 'task.name' is not Optional"),
    ("task.terms=[]", "`terms` must name at least one loss, got none"),
    ("task.terms=[aux,main,more]", "missing ['more']"),
    ("task.terms=aux", "`task.terms`: Invalid value assigned: str"),
    ("task.objective.name=val/nope", "`task.objective.name` must be a metric", "got 'val/nope'"),
    ("task.objective.name=null", "`task.objective.name`: field"),
    ("task.objective.direction=up", "`direction` must be one of ['maximize', 'minimize'], got 'up'"),
    ("task.data.unit=0", "`unit` must be a positive number, got 0"),
    ("task.data.targets.aux=middle", "`targets.aux` must be one of ['left', 'right', 'image'], got 'middle'"),
    ("task.module.heads.aux.outputs=0", "`outputs` must be a whole number, 2 or more, got 0"),
    (f"{L2}strength=-1", "`strength` must be a number, finite and not negative", "got -1"),
    (f"{L2}strength=inf", "`strength` must be a number, finite and not negative", "got inf"),
    (f"{L2}strength=abc", "`strength` must be a number, finite and not negative", "got 'abc'"),
    (f"{L2}normalization=men", "`normalization` must be one of", "(did you mean 'mean'?)"),
    (f"{L2}mode=gradeint", "`mode` must be one of", "(did you mean 'gradient'?)"),
    (f"{L2}share=0", "`share` must be a positive, finite number, got 0"),
    (f"{L2}share=0.1 penalty.strength=1e-3", "`penalty.share` must stand alone, got 0.1 with penalty.strength=0.001"),
    (f"{L2}as_term=true penalty.mode=gradient", "`penalty.mode` must be 'loss' with penalty.as_term=true, got 'grad"),
    (f"{L2}include=nothing", "`include` must match parameters by name", "'nothing' matches none of"),
    (f"{L2}num_samples=0", "`num_samples` must be a positive, finite number, got 0"),
    ("penalty=elastic_net penalty.l1=-1", "`l1` must be a number, finite and not negative", "got -1"),
    ("penalty.normalization=men", "`penalty.normalization` is not a setting"),
    ("loss=fixed +loss.weights.axu=1", "`weights` must name each term", "(did you mean 'aux'?)"),
    ("loss=fixed loss.weights.aux=-1", "`weights['aux']` must be a number, finite and not negative, got -1"),
    ("loss=fixed loss.weights.aux=nan", "`weights['aux']` must be a number, finite and not negative, got nan"),
    ("loss=gradnorm loss.restoring_force=-1", "`restoring_force` must be a number, finite and not negative, got -1"),
    ("loss=gradnorm loss.initial=blanced", "`initial` must be one of", "(did you mean 'balanced'?)"),
    ("loss=gradbalance loss.decay=1", "`decay` must be a number in [0, 1), got 1"),
    ("loss=gradbalance loss.ratios={aux:1}", "`ratios` must name each term", "missing ['main']"),
    ("loss=gradbalance loss.ratios={aux:1,main:-1}", "`ratios['main']` must be a positive, finite number, got -1"),
    ("loss=uncertainty loss.likelihood=gausian", "`likelihood` must be one of", "got 'gausian'"),
    ("loss=uncertainty loss.lr=0", "`lr` must be a positive, finite number, got 0"),
    ("loss=uncertainty loss.initial_log_variance=nan", "`initial_log_variance` must be", "got nan"),
    ("loss=uncertainty_softmax loss.temperature=0", "`temperature` must be a positive, finite number, got 0"),
    ("loss=equal loss.nope=1", "`loss.nope` is not a setting"),
    ("loss._target_=lossbalance.weighting.Nope", "`loss`: Error", "lossbalance.weighting.Nope"),
    ("loss._target_=builtins.print", "`loss`: ", "keyword argument", "print()"),
    ("conflict=cagrad conflict.c=-1", "`c` must be a number, 0 or more, got -1"),
    ("callbacks=alpha_schedule callbacks.alpha_schedule.shape=linaer", "`shape` must be one of", "got 'linaer'"),
    ("ckpt_path=nowhere.ckpt", "`ckpt_path` must be a checkpoint, got 'nowhere.ckpt', which is not a file"),
    ("ckpt_path=/", "`ckpt_path` must be a checkpoint, got '/', which is not a file"),
]  # fmt: skip


def answer(*words: str, folder: Path) -> str:
    """Returns what the command would say of these words."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        train_here(*TINY, *words, folder=folder)
    return explain(caught.value)


@pytest.mark.parametrize(("words", "parts"), [(case[0], case[1:]) for case in WORDS], ids=[case[0] for case in WORDS])
def test_a_wrong_word_is_answered_by_one_message(words, parts, tmp_path):
    said = answer(*words.split(), folder=tmp_path / "run")
    for part in parts:
        assert part in said, said
    assert "Traceback" not in said
    assert len(said) < 1200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("run")
    train_here(*TINY, folder=folder)
    return folder


class Opens:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _cut_off(path, content):
    path.write_bytes(content[: len(content) // 2])


def _damaged(path, content):
    path.write_bytes(content[:500] + bytes(500) + content[1000:])


def _other_archive(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "hello")


def _weights_alone(path, content):
    torch.save({"weight": torch.zeros(2)}, path)


CHECKPOINTS = {
    "a word": lambda path, content: path.write_text("101"),
    "a text": lambda path, content: path.write_text("Dear diary,\n" * 50),
    "empty": lambda path, content: path.write_bytes(b""),
    "zeros": lambda path, content: path.write_bytes(bytes(1000)),
    "cut off": _cut_off,
    "damaged": _damaged,
    "another archive": _other_archive,
    "a pickle": lambda path, content: path.write_bytes(pickle.dumps({"state_dict": {}})),
    "a number": lambda path, content: torch.save(3, path),
    "weights alone": _weights_alone,
    "code": lambda path, content: path.write_bytes(pickle.dumps(Opens(path.parent / "opened"))),
    "code that torch saved": lambda path, content: torch.save({"x": Opens(path.parent / "opened")}, path),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_written(run, tmp_path, kind):
    path = tmp_path / "last.ckpt"
    CHECKPOINTS[kind](path, (run / "checkpoints" / "last.ckpt").read_bytes())
    said = answer(f"ckpt_path='{path}'", folder=tmp_path / "new")
    assert said.startswith("`ckpt_path` must be a")
    assert f"got '{path}'" in said
    assert not (tmp_path / "opened").exists()
    assert not (tmp_path / "new" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["loss=gradnorm"], "`ckpt_path` must be of the same network, scheme and optimizer, got"),
        (["task=raw_pixels"], "`net.branches.aux.weight` is [10, 16] there and [88, 16] here"),
        (["task.width=32"], "task.width=16 there, 32 here"),
        (["optimizer=sgd"], "its optimizer is not torch.optim.SGD"),
        (["optimizer=adamw"], "its optimizer is not torch.optim.AdamW"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_what_differs(run, tmp_path, words, part):

    said = answer(*words, f"ckpt_path='{run / 'checkpoints' / 'last.ckpt'}'", folder=tmp_path)
    assert part in said


def test_a_checkpoint_with_more_epochs_than_asked_for_is_refused(run, tmp_path):
    train_here(*TINY, "trainer.max_epochs=2", folder=tmp_path / "two")
    last = tmp_path / "two" / "checkpoints" / "last.ckpt"
    said = answer(f"ckpt_path='{last}'", folder=tmp_path / "new")
    assert said.startswith("`trainer.max_epochs` must be at least 2, the epochs that")
    assert said.endswith("got 1: more of them, or an earlier checkpoint.")


def test_a_checkpoint_of_the_start_is_gone_on_from_though_its_state_is_of_another_size(tmp_path):
    train_here(*TINY, "loss=lr_annealing", folder=tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert train_here(*TINY, "loss=lr_annealing", "trainer.max_epochs=2", f"ckpt_path='{last}'", folder=tmp_path)
