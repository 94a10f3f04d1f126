"""The study of one run."""

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from studies import one_run
from studies.common.study import report_study, train_study
from studies.one_run.multitask import Heads
from studies.one_run.schemes import SCHEMES
from studies.one_run.study import SWEEP, Settings, keep_best, split, sweep
from studies.one_run.summary import PLAIN
from studies.one_run.tables import DEVELOPMENT, HELD_OUT, TABLES, Table, Target, is_present, read_table

TINY = Settings(tables=("diabetes", "tumour"), seeds=2, steps=3, checkpoints=2, width=4, schemes=("DWA", "NTK"))


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_inputs_and_targets_for_every_row(name):
    data = Settings().data
    if not is_present(name, data):
        pytest.skip(f"{name} is neither in {data} nor in a package that is installed")
    table = read_table(name, data)
    assert np.isfinite(table.inputs).all()
    assert len(table.targets) > 1
    for target in table.targets:
        assert target.values.shape[0] == len(table.inputs)
        assert np.isfinite(target.values).any(axis=0).all()
        if target.kind != "number":
            known = target.values[np.isfinite(target.values)]
            assert set(known) == set(range(max(target.outputs, 2)))


def test_a_split_standardizes_by_its_training_part_and_uses_every_row_once():
    table = Table(np.arange(20.0)[:, None] ** 2, (Target("y", "number", np.arange(20.0)[:, None]),))
    data = split(table, seed=0)
    assert [len(rows) for rows in data[2:]] == [12, 4, 4]
    assert sorted(torch.cat(data[2:]).tolist()) == list(range(20))
    torch.testing.assert_close(data.inputs[data.training].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.inputs[data.training].std(), torch.tensor(1.0))


def test_standardized_targets_are_numbers_of_mean_0_and_deviation_1_and_classes_as_they_are():
    values = np.column_stack([np.arange(20.0) * 1e3 + 5e6, np.arange(20) % 2])
    targets = Target("y", "number", values[:, :1]), Target("class", "class", values[:, 1:])
    data = split(Table(np.arange(20.0)[:, None], targets), seed=0, standardizes=True)
    numbers, classes = data.labels[data.training].T
    torch.testing.assert_close(numbers.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers.std(correction=0), torch.tensor(1.0))
    assert set(classes.tolist()) == {0.0, 1.0}


def test_of_a_larger_table_as_many_rows_are_used_as_are_asked_for():
    table = Table(np.arange(20.0)[:, None], (Target("y", "number", np.arange(20.0)[:, None]),))
    assert [len(rows) for rows in split(table, seed=0, most=10)[2:]] == [6, 2, 2]


def test_no_table_is_both_for_development_and_held_out():
    assert not set(DEVELOPMENT) & set(HELD_OUT)
    assert set(TABLES) == {*DEVELOPMENT, *HELD_OUT}


def test_each_copy_keeps_the_checkpoint_with_its_lowest_validation_error():
    nan = np.nan
    course = zip([[nan, 2.0, 2.0], [1.0, 3.0, 1.0], [4.0, 1.0, nan]], [[1.0] * 3, [2.0] * 3, [3.0] * 3], strict=True)
    names = "validation_error", "test_error"
    best, last = keep_best(dict(zip(names, map(torch.tensor, measured), strict=True)) for measured in course)
    assert best["validation_error"].tolist() == [1.0, 1.0, 1.0]
    assert best["test_error"].tolist() == [2.0, 3.0, 2.0]
    assert last["test_error"].tolist() == [3.0, 3.0, 3.0]


def test_errors_by_hand():
    number = Target("number", "number", np.array([[1.0], [3.0], [np.nan]]))
    answer = Target("answer", "yes_no", np.array([[1.0], [0.0], [1.0]]))
    species = Target("class", "class", np.array([[0.0], [2.0], [0.0]]))
    heads = Heads([number, answer, species])
    labels = torch.as_tensor(np.concatenate([number.values, answer.values, species.values], axis=1)).float()

    constant = heads.constant(labels)
    outputs = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0]).expand(1, 3, 5)

    torch.testing.assert_close(constant[0], torch.tensor(2.0))
    torch.testing.assert_close(constant[1].sigmoid(), torch.tensor(2 / 3))
    torch.testing.assert_close(constant[2:].softmax(0), torch.tensor([2 / 3, 0, 1 / 3]))
    torch.testing.assert_close(heads.errors(outputs, labels)[0], torch.tensor([1.0, 0.5, 1 / 3]))
    torch.testing.assert_close(heads.losses(outputs, labels)[0], torch.tensor([1.0, np.log(2), np.log(3)]).float())


@pytest.mark.parametrize("constants", [[2.0, 50.0], [0.1, 2.0, 50.0]])
def test_a_sweep_begins_with_the_plain_sum_and_holds_one_over_the_variances(constants):
    constants = torch.tensor(constants)
    tried = sweep(constants, seed=3)
    torch.testing.assert_close(tried[0] / tried[0, 0], torch.ones(len(constants)))
    torch.testing.assert_close(tried @ constants, torch.full((len(tried),), float(len(constants))))
    assert ((tried * constants - 1).abs() < 1e-5).all(1).any()
    assert len(tried.unique(dim=0)) == len(tried)


def test_the_report_is_a_table_a_picture_and_the_same_again(tmp_path):
    console = Console(record=True, width=200)
    settings = Settings(
        tables=("tumour", "bike_sharing"), seeds=2, scalings=("raw", "standardized"), steps=3, checkpoints=1, width=4
    )

    conclusion = report_study(one_run, settings, tmp_path / "out", console=console)

    text = console.export_text()
    assert conclusion in text.replace("\n", "")
    for scheme in (*SCHEMES, PLAIN, "best of the sweep", "GradBalance with weight_sum, standardized"):
        assert scheme in text
    assert (tmp_path / "out" / "picture.png").stat().st_size > 10_000
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(results["table"]) == {"tumour"}  # nobody said where the other file is
    assert results[["test_error", "test_loss"]].notna().all(axis=None)
    pd.testing.assert_frame_equal(train_study(one_run, settings, tmp_path / "again"), results)


def test_every_method_is_trained_at_every_learning_rate_of_the_grid(tmp_path):
    settings = Settings(tables=("tumour",), seeds=1, rates=(0,), steps=1, checkpoints=1, width=4, schemes=("DWA",))
    results = train_study(one_run, settings, tmp_path)
    rates = results.groupby(["scheme", "setting", "scale"])["rate"].agg(tuple)
    assert set(rates[SWEEP]) == set(rates["DWA"]) == {(1e-3, 3e-3, 1e-2, 3e-2) * 2}  # both checkpoints


def test_a_study_that_was_stopped_trains_only_what_is_missing(tmp_path, monkeypatch):
    whole = train_study(one_run, TINY, tmp_path)
    (tmp_path / "cells" / "raw-tumour-1.csv").unlink()
    trained = []
    train_cell = one_run.train_cell
    monkeypatch.setattr(one_run, "train_cell", lambda *cell: trained.append(cell[1:]) or train_cell(*cell))

    again = train_study(one_run, TINY, tmp_path)

    assert trained == [("raw", "tumour", 1)]
    pd.testing.assert_frame_equal(again, whole)


def test_a_study_without_any_of_its_tables_says_where_they_are(tmp_path):
    settings = Settings(tables=("bike_sharing",), data=tmp_path)
    with pytest.raises(ValueError, match=r"none of which is: some come with `pip install -e '.\[tables\]'`, some are"):
        train_study(one_run, settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tables", ("irises",)),
        ("seeds", 0),
        ("rates", (-1.0,)),
        ("scalings", ("standard",)),
        ("schemes", ("GradBalanc",)),
        ("optimizer", "adma"),
    ],
)
def test_settings_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        Settings(**{argument: value})
