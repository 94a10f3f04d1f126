"""Predictions, export and evaluation of a run of task=table, from one training."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from lossbalance.cli.evaluate import evaluate
from lossbalance.cli.main import main
from lossbalance.tasks.table import load
from tests.cli.in_process import run_here
from tests.tasks.table.tables import TARGETS, table, write

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a monitor has much to say of so small a table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on ``houses.csv`` beside it, and its summary."""
    folder = tmp_path_factory.mktemp("table")
    settings = [f"task.path={write(folder)}", f"task.targets=[{','.join(TARGETS)}]", "task.max_epochs=30", "test=best"]
    return folder / "run", run_here(folder / "run", "task=table", "loss=equal", *settings)


def ckpt(run, name="best"):
    return f"ckpt_path={run[0] / 'checkpoints' / name}.ckpt"


def predict(run, frame, folder, *overrides):
    frame.to_csv(folder / "new.csv", index=False)
    output = folder / "out.csv"
    assert main(["predict", ckpt(run), f"task.path={folder / 'new.csv'}", f"output={output}", *overrides]) == 0
    return pd.read_csv(output)


def test_predictions_are_in_the_units_and_classes_of_the_targets_and_rows_in_order(run, tmp_path):
    new = table()[["town", "size"]].iloc[::-1]
    predicted = predict(run, new, tmp_path)
    assert list(predicted) == TARGETS
    assert len(predicted) == len(new)
    right = 1000 * new["size"].to_numpy() + 5000 * (new["town"] == "Oslo")
    assert np.corrcoef(predicted["price"], right)[0, 1] > 0.95
    assert abs(predicted["price"].mean() / right.mean() - 1) < 0.1
    assert set(predicted["sold"]) == {"no", "yes"}
    assert set(predicted["grade.of"]) <= {1, 2, 3, 4}
    assert ((predicted["sold"] == "yes").to_numpy() == (new["size"] > 100).to_numpy()).mean() > 0.9


def test_probabilities_are_added_on_request(run, tmp_path):
    predicted = predict(run, table(), tmp_path, "probabilities=true")
    assert (predicted["sold=yes"] + predicted["sold=no"]).to_numpy() == pytest.approx(1)
    assert ((predicted["sold=yes"] > 0.5) == (predicted["sold"] == "yes")).all()


def test_a_row_is_predicted_alone_as_among_others(run):
    frame = table()
    whole, alone = load(run[0]).predict(frame), load(run[0], "best").predict(frame.iloc[[7]])
    assert alone.index.tolist() == [7]
    assert alone["price"].iloc[0] == pytest.approx(whole["price"].iloc[7], rel=1e-5)


def test_predictions_reproduce_the_metric_of_the_test(run):
    frame = table().dropna(subset=TARGETS, how="all")
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(0))
    test = frame.iloc[order[: len(frame) // 5].numpy()].dropna(subset=["price"])
    error = (load(run[0]).predict(test)["price"] - test["price"]).pow(2).mean()
    assert run[1]["metrics"]["test/loss/price"] == pytest.approx(error, rel=1e-4)


def test_an_exported_network_runs_without_this_package(run, tmp_path):
    assert main(["export", ckpt(run), f"output={tmp_path / 'model.pt2'}"]) == 0
    files = {"schema.json": ""}
    network = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    schema = json.loads(files["schema.json"])
    frame = table()
    columns = [
        frame[each["name"]].fillna("").map(each["categories"].index) if each["kind"] == "text" else frame[each["name"]]
        for each in schema["columns"]
    ]
    outputs = network(torch.tensor(np.stack([column.to_numpy(dtype=float) for column in columns], axis=1)))
    expected = load(run[0]).predict(frame)
    assert outputs["price"].numpy() == pytest.approx(expected["price"].to_numpy(), rel=1e-5)
    classes = schema["targets"][1]["classes"]
    assert [classes[i] for i in outputs["sold"].argmax(1)] == expected["sold"].tolist()


def test_another_table_is_evaluated_with_the_scales_of_the_training(run, tmp_path, capsys):
    other = table().iloc[:60]
    other.to_csv(tmp_path / "other.csv", index=False)
    metrics = evaluate(ckpt(run).partition("=")[2], [f"task.path={tmp_path / 'other.csv'}"])
    labelled = other.dropna(subset=["price"])
    error = (load(run[0]).predict(labelled)["price"] - labelled["price"]).pow(2).mean()
    assert metrics["test/loss/price"] == pytest.approx(error, rel=1e-4)
    assert "All 60 rows of" in capsys.readouterr().out


def test_the_table_of_the_training_is_split_as_it_was_wherever_it_lies_now(run, tmp_path):
    moved = shutil.copy(run[0].parent / "houses.csv", tmp_path / "moved.csv")
    metrics = evaluate(ckpt(run).partition("=")[2], [f"task.path={moved}"])
    assert metrics["test/loss/price"] == pytest.approx(run[1]["metrics"]["test/loss/price"])


def test_another_unit_is_noticed(run, tmp_path, caplog):
    table().assign(price=table()["price"] * 1000).to_csv(tmp_path / "other.csv", index=False)
    evaluate(ckpt(run).partition("=")[2], [f"task.path={tmp_path / 'other.csv'}"])
    assert "Target 'price' has mean 1.0" in caplog.text
    assert "is it in the same unit?" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(price=frame["price"] * 1000), "target 'price' has mean "),
        (
            lambda frame: frame.assign(sold=frame["sold"].replace("no", "not")),
            "target 'sold' has classes ['no', 'yes'] t",
        ),
        (lambda frame: frame.assign(town=frame["town"].replace("Oslo", "Paris")), "feature 'town' has categories ["),
        (lambda frame: frame.iloc[:-9], "rows with a label there, "),
        (lambda frame: frame.rename(columns={"size": "area"}), "feature 'size' is only there"),
    ],
)
def test_a_table_that_has_changed_is_refused_and_the_difference_is_named(run, tmp_path, change, message):
    folder = shutil.copytree(run[0], tmp_path / "run")
    settings = (folder / "config.yaml").read_text()
    path = write(tmp_path, change(table()))
    (folder / "config.yaml").write_text(settings.replace(str(run[0].parent / "houses.csv"), path))
    said = main(["eval", f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    assert "`task.path` must be the table that the checkpoint was trained on" in str(said)
    assert message in str(said)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "`seed` must be 0, as in the run, got '1'"),
        (["folds=3"], "`folds` must be 4, as in the run"),
        (["task.width=8"], "`task.width` must be 64"),
        (["task.targets=[price]"], "`task.targets` must be ["),
        (["task.data.seed=1"], "`task.data.seed` must be 0"),
        (["loss=equal"], "`loss` must be"),
        (["task.path=nowhere.csv"], "`task.path` must be a CSV or Parquet file"),
        (["seed=0", "seed=0"], "`seed` must be given once"),
    ],
)
def test_settings_that_a_test_cannot_change_are_refused_by_name(run, overrides, message):
    assert message in str(main(["eval", ckpt(run), *overrides]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="size"), "must have the columns of the training, missing 'size'"),
        (lambda frame: frame.rename(columns={"size": "sizes"}), "missing 'size' (did you mean 'sizes'?)"),
        (lambda frame: frame.astype({"size": object}).replace({"size": {frame["size"][3]: "n.a."}}), "'n.a.' in row 4"),
    ],
)
def test_a_table_that_cannot_be_predicted_from_is_refused(run, tmp_path, change, message):
    change(table()).to_csv(tmp_path / "new.csv", index=False)
    assert message in str(main(["predict", ckpt(run), f"task.path={tmp_path / 'new.csv'}"]))


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("predict", [], "`task.path` must be given"),
        ("predict", ["task.path=nowhere.csv"], "`task.path` must be a CSV or Parquet file"),
        ("predict", ["task.pth=new.csv"], "`task.pth` is not a setting (did you mean 'task.path'?)"),
        ("predict", ["task.path={table}", "output={table}"], "`output` must be another file"),
        ("predict", ["task.path={table}", "output=/nowhere/new.csv"], "`output` must be a .csv file in a folder"),
        ("predict", ["task.path={table}", "output=new.txt"], "`output` must be a .csv file"),
        ("predict", ["task.path={table}", "probabilities=maybe"], "`probabilities` must be True or False"),
        ("predict", ["task.path={table}", "seed=1"], "`seed` is not a setting"),
        ("predict", ["{table}"], "the arguments must be key=value"),
        ("export", ["output=model.onnx"], "`output` must be a .pt2 file"),
        ("export", ["task.path={table}"], "`task.path` is not a setting"),
        ("export", ["trust=perhaps"], "`trust` must be True or False"),
    ],
)
def test_wrong_input_is_refused_by_name(run, command, overrides, message):
    path = run[0].parent / "houses.csv"
    assert message in str(main([command, ckpt(run), *(each.format(table=path) for each in overrides)]))


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_checkpoint_of_another_task_is_refused(command, run, tmp_path):
    checkpoint = torch.load(run[0] / "checkpoints" / "last.ckpt", weights_only=True) | {"lossbalance_data": {}}
    (tmp_path / "checkpoints").mkdir()
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    shutil.copy(run[0] / "config.yaml", tmp_path)
    path = [f"task.path={run[0].parent / 'houses.csv'}"] if command == "predict" else []
    said = main([command, f"ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}", *path])
    assert "`ckpt_path` must be of task=table" in str(said)


def test_code_that_a_stranger_names_is_not_run(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run[0], tmp_path / "run")
    settings = (folder / "config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text("open('was_here', 'w')")
    for name in ("stranger.Net", "os.system", "subprocess.Popen", "torch.load"):
        (folder / "config.yaml").write_text(settings.replace("lossbalance.tasks.table.TableNet", name))
        for command in (["eval"], ["predict", f"task.path={run[0].parent / 'houses.csv'}"], ["export"]):
            said = str(main([*command, f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"]))
            assert repr(name) in said
            assert "trust" in said
    assert not (tmp_path / "was_here").exists()
