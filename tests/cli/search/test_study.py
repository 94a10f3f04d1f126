"""A study is about one question, in a storage of its own."""

import json

import optuna
import pytest
from optuna.study import StudyDirection

from lossbalance.cli.search.space import parse
from lossbalance.cli.search.study import check_name, name_study, open_study, search_definition

HIGH = StudyDirection.MAXIMIZE


def question(*words, objective="val/accuracy"):
    return search_definition(*parse(words), {objective: HIGH})


def open_it(folder, asked, name="mine", storage=None):
    sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
    return open_study(name, asked, None if storage is None else str(storage), folder, sampler, pruner)


@pytest.mark.parametrize(
    "other",
    [
        question("alpha=interval(0,0.5)", "seed=1"),
        question("alpha=interval(0,1)", "seed=2"),
        question("alpha=interval(0,1)", "seed=1", objective="val/main/accuracy"),
    ],
)
def test_another_question_is_another_study(tmp_path, other):
    asked = question("alpha=interval(0,1)", "seed=1")
    assert name_study(asked, "two_digits").startswith("two_digits-alpha-")
    assert name_study(asked, "two_digits") != name_study(other, "two_digits")
    open_it(tmp_path, asked)
    with pytest.raises(
        ValueError,
        match="`--study` must name a study of the same search, got 'mine', created for",
    ):
        open_it(tmp_path, other)


def test_the_same_question_in_another_order_is_the_same_study(tmp_path):
    asked, again = question("alpha=interval(0, 1)", "seed=1"), question("seed=1", "alpha=interval(0,1)")
    assert name_study(asked, "two_digits") == name_study(again, "two_digits")
    open_it(tmp_path, asked).add_trial(optuna.trial.create_trial(value=0.5))
    assert len(open_it(tmp_path, again).trials) == 1


@pytest.mark.parametrize("name", ["../../escape", "/tmp/escape", "a/b", "", ".hidden", "a b"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ValueError, match="`--study` must be a name of letters, digits, dots and dashes, got"):
        check_name(name)


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_storage_with_a_study_of_another_project_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "theirs"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    url = f"sqlite:///{path}"
    optuna.create_study(
        study_name="theirs", storage=optuna.storages.JournalStorage(backend) if kind == "journal" else url
    )
    with pytest.raises(ValueError, match="with the study 'theirs' of another"):
        open_it(tmp_path / "mine", question("alpha=interval(0,1)"), storage=path if kind == "journal" else url)


def test_a_study_goes_on_after_its_journal_was_read_to_the_end(tmp_path):
    storage = tmp_path / "journal"
    for trials in range(3):
        study = open_it(tmp_path, question("alpha=interval(0,1)"), storage=storage)
        assert len(study.trials) == trials
        study.add_trial(optuna.trial.create_trial(value=0.5))


def test_a_new_storage_does_not_write_into_the_folders_of_old_trials(tmp_path):
    (tmp_path / "0").mkdir()
    with pytest.raises(ValueError, match="`--study` must be a new name where the storage is new, got 'mine'"):
        open_it(tmp_path, question("alpha=interval(0,1)"))


def test_the_question_is_readable_in_the_storage(tmp_path):
    study = open_it(tmp_path, question("alpha=interval(0,1)", "seed=1"))
    assert json.loads(json.dumps(study.user_attrs["question"])) == {
        "fixed": ["seed=1"], "space": {"alpha": "interval(0,1)"}, "objective": {"val/accuracy": "maximize"},
    }  # fmt: skip


def _journal(path):
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    optuna.create_study(study_name="mine", storage=optuna.storages.JournalStorage(backend))


def _cut_off(path):
    _journal(path)
    path.write_bytes(path.read_bytes()[:-5])


def _overwritten(path):
    _journal(path)
    path.write_bytes(b"\x00" * 20 + path.read_bytes()[20:])


BROKEN = {
    "a diary": lambda path: path.write_text("Dear diary,\n"),
    "a picture": lambda path: path.write_bytes(bytes(range(256))),
    "other JSON": lambda path: path.write_text('{"a": 1}\n'),
    "a list": lambda path: path.write_text("[1]\n"),
    "a number": lambda path: path.write_text("101\n"),
    "cut off": _cut_off,
    "overwritten": _overwritten,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("url", ["{}", "sqlite:///{}"])
def test_a_file_that_is_no_storage_is_refused_and_left_as_it_was(tmp_path, kind, url):
    path = tmp_path / "storage"
    BROKEN[kind](path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ValueError, match="`--storage` must be a journal of Optuna's, a new file, or the URL of a data"):
        open_it(tmp_path / "folder", question("alpha=interval(0,1)"), storage=url.format(path))
    assert before is None or path.read_bytes() == before
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense://x", "Can't load plugin"),
        ("sqlite:///{folder}/nowhere/study.db", "unable to open database file"),
        ("sqlite:///{folder}/other.db", "it holds tables of something else, such as 'cats'"),
        ("{folder}/nowhere/journal", "there is no folder"),
        ("postgresql://me:secret@localhost:1/x", r"got 'postgresql://me:\*\*\*@localhost:1/x'"),
        ("://", "got '://'"),
    ],
)
def test_an_error_of_a_database_names_the_argument(tmp_path, url, reason):
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    database.close()
    with pytest.raises(ValueError, match=f"`--storage` must be .*{reason}"):
        open_it(tmp_path / "folder", question("alpha=interval(0,1)"), storage=url.format(folder=tmp_path))


def test_a_truncated_last_line_of_a_journal_is_dropped(tmp_path, caplog):
    definition = question("alpha=interval(0,1)")
    open_it(tmp_path, definition)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-9])
    assert open_it(tmp_path, definition).user_attrs["question"] == definition
    assert journal.read_bytes().startswith(whole)
    assert "was truncated and is dropped" in caplog.text
