import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from studies import one_run
from studies.multitask import Heads
from studies.one_run import Settings, keep_best, split, study, sweep
from studies.one_run_answer import CONTROL, PLAIN, answer, compare, summarize
from studies.one_run_report import report_one_run
from studies.one_run_schemes import SCHEMES
from studies.tables import KEPT_BACK, SEEN, TABLES, Table, Target, is_there, read_table

TINY = Settings(tables=("diabetes", "tumour"), seeds=2, steps=3, checkpoints=2, width=4)


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_inputs_and_targets_for_every_row(name):
    data = Settings().data
    if not is_there(name, data):
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


def test_no_table_is_both_seen_and_kept_back():
    assert not set(SEEN) & set(KEPT_BACK)
    assert set(TABLES) == {*SEEN, *KEPT_BACK}


def test_each_copy_keeps_the_checkpoint_with_its_lowest_validation_error():
    nan = np.nan
    course = zip([[nan, 2.0, 2.0], [1.0, 3.0, 1.0], [4.0, 1.0, nan]], [[1.0] * 3, [2.0] * 3, [3.0] * 3], strict=True)
    names = "validation_error", "test_error"
    kept, last = keep_best(dict(zip(names, map(torch.tensor, measured), strict=True)) for measured in course)
    assert kept["validation_error"].tolist() == [1.0, 1.0, 1.0]
    assert kept["test_error"].tolist() == [2.0, 3.0, 2.0]
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


def make_results(rows):
    columns = ["scheme", "setting", "matched", "table", "seed", "validation_error", "test_error"]
    kept = pd.DataFrame(rows, columns=columns).assign(checkpoint="kept")
    return pd.concat([kept, kept.assign(checkpoint="last", test_error=kept["test_error"] + 0.1)])


def test_a_comparison_by_hand():
    rows = []
    for seed, shift in ((0, 0.0), (1, 0.2)):
        rows += [
            ("sweep", 0, False, "t", seed, 0.9, 0.9),  # the plain sum
            ("sweep", 1, False, "t", seed, 0.5, 0.5),  # best in validation, and so the base
            ("sweep", 2, False, "t", seed, 0.6, 0.3),  # better in the test: not to be known
            ("sweep", 0, True, "t", seed, 0.4, 0.4),
            ("sweep", 1, True, "t", seed, np.nan, np.nan),  # diverged
            ("sweep", 2, True, "t", seed, 0.6, 0.6),
            ("Good", 0, False, "t", seed, 1.0, 0.4 + shift),
            ("Good", 0, True, "t", seed, 1.0, 0.4),
        ]
    results = make_results(rows)

    plain, matched = compare(results), compare(results, loss_sum=True, sweep_loss_sum=True)

    assert plain["excess"].to_dict() == pytest.approx(
        {(PLAIN, "t"): 0.8, (CONTROL, "t"): -0.2, ("Good", "t"): 0.0}, abs=1e-9
    )
    assert plain.loc[("Good", "t"), "error_of_excess"] == pytest.approx(0.2)  # -.1 and .1, over .5
    assert matched["excess"].to_dict() == pytest.approx(
        {(PLAIN, "t"): 0.0, (CONTROL, "t"): 0.0, ("Good", "t"): 0.0}, abs=1e-9
    )
    assert compare(results, loss_sum=True)["excess"]["Good"]["t"] == pytest.approx(-0.2)  # .4, over .5
    assert compare(results, checkpoint="last")["excess"][PLAIN]["t"] == pytest.approx(1.0 / 0.6 - 1)


def make_comparison(excess):
    table = pd.DataFrame(excess, index=pd.Index(["a", "b"], name="table")).T.rename_axis("scheme")
    return table.stack().to_frame("excess").assign(error_of_excess=0.0)


def test_the_answer_is_within_both_limits_where_a_scheme_is():
    plain = make_comparison({"One": [-0.3, 0.06], "Two": [-0.1, 0.04], "Three": [0.0, 0.0], CONTROL: [-0.5, -0.5]})
    found = answer(plain, make_comparison({"One": [0.1, 0.1], "Two": [0.01, 0.01], CONTROL: [-0.5, -0.5]}))
    assert found.scheme == "Two"
    assert found.sentence == (
        "Take Two first: one run ends 3.0% below the best of a sweep on average over 2 tables, and 4.0% above it where "
        "it does worst (b); within the same limits Three, Two with loss_sum."
    )
    assert summarize(plain).loc["One"].to_dict() == {"mean": pytest.approx(-0.12), "worst": 0.06, "where": "b"}
    found = answer(plain, make_comparison({"One": [-0.2, 0.03]}))
    assert found.sentence.startswith("Take One with loss_sum first: one run ends 8.5% below")


def test_the_answer_says_where_it_does_not_hold():
    found = answer(make_comparison({"One": [0.2, 0.1], "Two": [0.5, 0.0]}), make_comparison({"One": [0.3, 0.3]}))
    assert found.scheme == "One"
    assert found.sentence == (
        "Take One first: one run ends 15.0% above the best of a sweep on average over 2 tables; not on tables such as "
        "a (+20.0%), b (+10.0%)."
    )


def test_the_report_is_a_table_a_picture_and_the_same_again(tmp_path, monkeypatch):
    console = Console(record=True, width=160)
    settings = Settings(tables=("tumour", "bike_sharing"), seeds=2, steps=3, checkpoints=1, width=4, data=tmp_path)

    found = report_one_run(settings, tmp_path / "out", jobs=1, console=console)

    text = console.export_text()
    assert "bike_sharing is left out" in text
    assert found.sentence in text.replace("\n", "")
    for scheme in (*SCHEMES, PLAIN, CONTROL):
        assert scheme in text
    assert (tmp_path / "out" / "one_run.png").stat().st_size > 10_000
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert results[["test_error", "test_loss"]].notna().all(axis=None)
    pd.testing.assert_frame_equal(study(settings.present(), tmp_path / "again", jobs=1), results)


def test_a_study_that_was_stopped_trains_only_what_is_missing(tmp_path, monkeypatch):
    whole = study(TINY, tmp_path, jobs=1)
    (tmp_path / "cells" / "tumour-1.csv").unlink()
    trained = []
    train_cell = one_run.train_cell
    monkeypatch.setattr(one_run, "train_cell", lambda *cell: trained.append(cell[1:]) or train_cell(*cell))

    again = study(TINY, tmp_path, jobs=1)

    assert trained == [("tumour", 1)]
    pd.testing.assert_frame_equal(again, whole)


def test_a_study_without_any_of_its_tables_says_where_they_are(tmp_path):
    settings = Settings(tables=("bike_sharing",), data=tmp_path)
    with pytest.raises(ValueError, match=r"none of which is: some come with `pip install -e '.\[tables\]'`, some lie"):
        report_one_run(settings, tmp_path / "out", jobs=1)


@pytest.mark.parametrize(("argument", "value"), [("tables", ("irises",)), ("seeds", 0), ("lr", 0.0)])
def test_settings_that_make_no_sense_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        Settings(**{argument: value})
