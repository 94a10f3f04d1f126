"""Whatever is wrong with a table, its settings, or a module, one message names the setting, the value and the cure.

A new case is one line: the overrides, or what is done to the table, and what the message must say.
"""

import shlex

import numpy as np
import pandas as pd
import pytest

from lossbalance.cli.explain import explain
from lossbalance.tasks.table import TableData
from tests.cli.program import train_here
from tests.tasks.table.tables import table, write

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # a monitor has much to say of so short a run
TABLE = "task=table task.path={path} task.targets=[price,sold] "
MODULE = (
    "task=module task.module._target_=tests.cli.my_project.Net task.data._target_=tests.cli.my_project.Data "
    "task.objective.name=val/loss/main task.terms=[aux,main] "
)
PATH, TARGETS = "`task.path` must be a CSV or Parquet file", "`task.targets` must "
OVERRIDES = [
    ("task=table", "['task.path', 'task.targets'] must be given"),
    ("task=table task.path={path}", "['task.targets'] must be given"),
    ("task=table task.path=3 task.targets=[price]", PATH, "got 3"),
    ("task=table task.path=[a] task.targets=[price]", PATH),
    ("task=table task.path=nowhere.csv task.targets=[price]", PATH, "no such file"),
    ("task=table task.path=/ task.targets=[price]", PATH),
    ("task=table task.path={path} task.targets=[]", "`task.targets` must name at least one"),
    ("task=table task.path={path} task.targets=price", "`task.t"),
    ("task=table task.path={path} task.targets=null", "`task.t"),
    ("task=table task.path={path} task.targets=3", "`task.t"),
    ("task=table task.path={path} task.targets=[3]", "`task.targets` must be"),
    ("task=table task.path={path} task.targets=[prise]", "`task.targets` must be one of", "did you mean 'price'?"),
    ("task=table task.path={path} task.targets=[price,price]", "`task.targets` must name each term once"),
    (TABLE + "task.features=[size,size]", "`task.features` must name each term once, got ['size']"),
    (TABLE + "task.features=size", "`task.features` must be a list of names, got the single string 'size'"),
    (TABLE + "task.features=[price]", "`task.features` must not have targets among them, got ['price']"),
    (TABLE + "task.features=[sise]", "`task.features` must be one of", "did you mean 'size'?"),
    (TABLE + "task.features=[]", "`task.features` must name at least one"),
    (TABLE + "task.ignore=size", "`task.ignore` must be a list of names, got the single string 'size'"),
    (TABLE + "task.ignore=[sise]", "`task.ignore` must be one of", "did you mean 'size'?"),
    (TABLE + "task.ignore=[size,town,grade.of]", "`task.features` must leave a column to predict from"),
    (TABLE + "task.kinds=number", "`task.kinds` must map targets to kinds", "got 'number'"),
    (TABLE + "task.kinds=[number]", "`task.kinds` must map targets to kinds"),
    (TABLE + "'task.kinds={prise: number}'", "`task.kinds` must be one of", "did you mean 'price'?"),
    (TABLE + "'task.kinds={price: nmber}'", "`task.kinds.price` must be one of", "did you mean 'number'?"),
    (TABLE + "'task.kinds={sold: number}'", "`task.kinds.sold` must be binary or classes"),
    (TABLE + "'task.kinds={price: binary}'", "`task.kinds.price` must be number or classes"),
    (TABLE + "task.thousands=x", "`task.thousands` must be one of", "got 'x'"),
    (TABLE + "task.thousands=1", "`task.thousands` must be one of"),
    (TABLE + "task.standardize=maybe", "`task.standardize` must be True or False, got 'maybe'"),
    (TABLE + "task.standardize=1", "`task.standardize` must be True or False, got 1"),
    (TABLE + "task.standardize=null", "`task.standardize` must be True or False, got None"),
    (TABLE + "task.batch_size=0", "`batch_size` must be a whole number, 1 or more, got 0"),
    (TABLE + "task.batch_size=1.5", "`batch_size` must be a whole number"),
    (TABLE + "task.width=0", "`width` must be a whole number, 1 or more, got 0"),
    (TABLE + "task.width=1e11", "`width` must be a whole number, 1 or more, got 100000000000.0"),
    (TABLE + "task.depth=-1", "`depth` must be a whole number, 0 or more, got -1"),
    (TABLE + "task.depth=two", "`depth` must be a whole number, 0 or more, got 'two'"),
    (TABLE + "task.dropout=1", "`dropout` must be a number in [0, 1), got 1"),
    (TABLE + "task.dropout=-0.1", "`dropout` must be a number in [0, 1), got -0.1"),
    (TABLE + "folds=161", "`folds` must be a whole number, from 2 to ", "got 161"),
    (TABLE + "folds=1", "`folds` must be a whole number, 2 or more, got 1"),
    (TABLE + "fold=4", "`fold` must be a whole number, from 0 to 3, got 4"),
    (TABLE + "task.standardise=true", "`task.standardise` is not a setting", "did you mean 'standardize'?"),
    (TABLE + "task.terms=[price]", "must name each term"),
    (TABLE + "task.terms=[price,sold,more]", "must name each term"),
    (TABLE + "task.data.nope=1", "`task.data.nope` is not an argument of"),
    (TABLE + "task.module.nope=1", "`task.module.nope` is not an argument of"),
    (TABLE + "task.objective.name=val/nope", "`task.objective.name` must be a metric", "'val/nope'"),
    (TABLE + "loss=fixed", "`weights` must name each term", "missing ['price', 'sold']"),
    (TABLE + "loss=fixed loss.weights=3", "`weights` must map each term"),
    (TABLE + "loss=fixed loss.weights=null", "`weights` must map each term"),
    (TABLE + "loss=fixed loss.weights=null '+loss.weights={price: 1}'", "missing ['sold']"),
    (TABLE + "loss=fixed loss.weights=null '+loss.weights={price: 1, slod: 1}'", "did you mean 'sold'?"),
    (TABLE + "loss=fixed loss.weights=null '+loss.weights={price: x, sold: 1}'", "`weights['price']` must be a number"),
    (TABLE + "loss=fixed loss.weights.price=1", "`loss.weights.price` is not a setting", "'loss.weights={price: 1.0}'"),
    (TABLE + "loss=constrained", "`limits` must name terms of", "got 'aux'"),
    (TABLE + "loss=constrained loss.limits=null", "`limits` must map terms of"),
    (TABLE + "loss=constrained loss.limits=null '+loss.limits={}'", "`limits` must give a limit"),
    (TABLE + "loss=constrained loss.limits=null '+loss.limits={price: x}'", "`limits['price']` must be"),
    (TABLE + "loss=constrained loss.limits=null '+loss.limits={prise: 1}'", "did you mean 'price'?"),
    ("+foo=1", "`foo` is not a setting"),
    ("+penalty.foo=1", "`penalty.foo` is not a setting yet: choose `penalty=...` first"),
    ("~alpha", "`alpha` must have a value, got none: leave out ~alpha"),
    ("~seed", "`seed`"),
    ("~callbacks.checkpoint ~weight_sum", "weight_sum"),
    ("trainer=null", "A group, `trainer`, must be one of its choices, got null"),
    ("task=3", "A group, `task`, must be one of its choices, got int"),
    ("task=module", "'task.terms'", "must be given"),
    (MODULE + "task.module._target_=tests.cli.my_projct.Net", "`task.module._target_` must be a name"),
    (MODULE + "task.module._target_=tests.cli.my_project.Nett", "did you mean 'Net'?"),
    (MODULE + "task.module._target_=penguins.Net", "there is no module 'penguins'"),
    (MODULE + "task.module._target_=3", "`task.module._target_` must be the full name"),
    (MODULE + "task.module._target_=Net", "`task.module._target_` must be the full name"),
    (MODULE + "task.module._target_=math.pi", "`task.module._target_` must be a LightningModule", "which is float"),
    (MODULE + "task.module._target_=builtins.dict", "`task.module._target_` must make a LightningModule"),
    (MODULE + "task.module.width=3", "`task.module.width` is not an argument of"),
    (MODULE + "task.module.widths=3", "AssertionError", "my_project.py, line "),
    (MODULE + "task.data._target_=tests.cli.my_project.Nope", "`task.data._target_` must be a name"),
    (MODULE + "task.data._target_=builtins.dict", "`task.data._target_` must make a LightningDataModule"),
    (MODULE + "task.data.sample=3", "`task.data.sample` is not an argument of", "did you mean 'samples'?"),
    (MODULE + "task.data._target_=tests.cli.my_project.no_batches", "There is no training batch", "'val/loss/main'"),
    (MODULE + "task.module._target_=tests.cli.my_project.Idle", "`configure_optimizers` of Idle must return an optim"),
    (MODULE + "task.module._target_=tests.cli.my_project.Lost", "The validation has no finite loss"),
    (MODULE + "task.module._target_=tests.cli.my_project.Clumsy", "KeyError: 'pixel' (", "my_project.py, line "),
    (MODULE + "task.data._target_=tests.cli.my_project.lost_file", "FileNotFoundError: ", "my_project.py, line "),
    (MODULE + "trainer.max_steps=1 trainer.limit_train_batches=2", "`trainer.max_steps`=1 ends the training before"),
    (MODULE + "callbacks=none", "`callbacks` have no loss_monitor"),
    (MODULE + "task.terms=aux", "`task.terms`: Invalid value assigned: str"),
    (MODULE + "task.terms=[]", "`terms` must name at least one"),
    (MODULE + "'task.probes={aux: net.nope}'", "nope"),
    (MODULE + "task.probes=3", "`task.probes` must be a mapping"),
    (MODULE + "task.shared=[net.nope]", "`shared`", "nope"),
    (MODULE + "task.shared=3", "`task.shared` must be a list"),
    (MODULE + "task.branch=net.nope 'task.probes={aux: net.aux_head, main: net.head}'", "nope"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "parts"), [(case[0], case[1:]) for case in OVERRIDES], ids=[c[0] for c in OVERRIDES]
)
def test_a_wrong_setting_is_named(overrides, parts, tmp_path):
    given = shlex.split(overrides.replace("{path}", write(tmp_path)))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        train_here("trainer.max_epochs=1", "trainer.limit_train_batches=1", *given, folder=tmp_path / "run")
    said = explain(caught.value)
    for part in parts:
        assert part in said, said
    assert "Traceback" not in said
    assert len(said) < 1500


def cell(column, value, row=7):
    """Returns what puts a value into one cell."""
    return lambda frame: frame.astype({column: object}).assign(**{column: [
        value if number == row else each for number, each in enumerate(frame[column])
    ]})  # fmt: skip


def texts(column, form):
    """Returns what writes a column as texts."""
    return lambda frame: frame.assign(**{column: [form.format(abs(value)) for value in frame[column].fillna(1)]})


CONTENTS = [
    (cell("price", "n.a."), ["price"], "`task.targets` must be columns of numbers", "'n.a.' in row 8"),
    (cell("price", "12 euros"), ["price"], "'12 euros' in row 8"),
    (cell("price", "none given"), ["price"], "'none given' in row 8"),
    (cell("price", "1.000.0"), ["price"], "row 8"),
    (cell("price", "1e5x"), ["price"], "'1e5x' in row 8"),
    (cell("size", "n.a."), ["price"], "`task.features` must be columns of numbers", "'size'", "'n.a.' in row 8"),
    (cell("size", "-"), ["price"], "'-' in row 8"),
    (cell("size", "about 3", 0), ["price"], "'about 3' in row 1"),
    (cell("size", "#REF!", 199), ["price"], "'#REF!' in row 200"),
    (texts("price", "{:,.0f}"), ["price"], "thousands separators", "task.thousands=','"),
    (texts("size", "{:.2f} kg"), ["price"], "numbers with a unit", "row 1"),
    (texts("price", "{:.0f} kg"), ["price"], "numbers with a unit", "row 1"),
    (texts("price", "{:.0f}%"), ["price"], "numbers with a unit"),
    (texts("price", "id-{:.1f}"), ["price"], "`task.targets` must be numbers or classes", "different texts in"),
    (lambda frame: frame.assign(price=[f"name {i}" for i in range(200)]), ["price"], "200 different texts", "row 1"),
    (lambda frame: frame.assign(price=1.5), ["price"], "that differ from row to row", "1.5 in all 200 rows"),
    (lambda frame: frame.assign(price=np.nan), ["price"], "at least 20 rows with a label, got 0"),
    (lambda frame: frame.assign(price=frame["price"] * 1e26), ["price"], "a standard deviation from 1e-18 to 1e+18"),
    (lambda frame: frame.assign(price=frame["price"] * 1e-26), ["price"], "a standard deviation from 1e-18 to 1e+18"),
    (lambda frame: frame.iloc[:10], ["price"], "at least 20 rows with a label, got "),
    (lambda frame: frame.iloc[:0], ["price"], "must have rows below its header"),
    (lambda frame: frame[["price"]], ["price"], "must leave a column to predict from"),
    (lambda frame: frame[["price"]].assign(x=1), ["price"], "columns that tell the rows apart, got ['x']"),
    (lambda frame: frame.assign(x="a")[["price", "x"]], ["price"], "columns that tell the rows apart"),
    (lambda frame: frame[["price"]].assign(x=[f"n{i}" for i in range(200)]), ["price"], "178 different texts"),
    (lambda frame: pd.concat([frame, frame["size"]], axis=1), ["price"], "the column 'size' is there twice"),
    (lambda frame: frame.assign(sold=["yes"] + ["no"] * 199), ["sold"], "different labels in each part"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "targets", "parts"), [(case[0], case[1], case[2:]) for case in CONTENTS])
def test_a_wrong_table_is_named_with_its_row(change, targets, parts, tmp_path):
    path = write(tmp_path, change(table()))
    with pytest.raises((ValueError, TypeError)) as caught:
        TableData(path, targets)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


BYTES = [
    (b"", "cannot be read"),
    (b"\n\n\n", "cannot be read"),
    (b"\x00\x01\x02", "`task.path`"),
    (b"PK\x03\x04 no archive", "`task.path`"),
    (b"\xff\xfe\x00\x81price", "cannot be read"),
    (b"price,size\n1,2,3\n4,5,6,7\n" * 9, "cannot be read"),
    (b'price,size\n"1,2\n' * 30, "`task.path`"),
    (b"price,size\n", "must have rows below its header"),
    (b"price\n" + b"1\n2\n" * 30, "must leave a column to predict from"),
    (b"<html><body>404</body></html>", "`task."),
    (b"{}", "`task."),
    (b"sold,size\n" + b"1,2\n" * 30, "`task.targets` must be one of ['sold', 'size'], got 'price'"),
    (b"price,price\n" + b"1,2\n" * 30, "the column 'price' is there twice"),
    (b" price,size\n" + b"1,2\n" * 30, "did you mean ' price'?"),
    (b"Price,size\n" + b"1,2\n" * 30, "did you mean 'Price'?"),
]


@pytest.mark.parametrize(("content", "part"), BYTES)
@pytest.mark.parametrize("name", ["table.csv", "table.txt"])
def test_a_file_that_is_no_table_is_refused(content, part, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"`task\.") as caught:
        TableData(str(tmp_path / name), ["price"])
    assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize("form", ["%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%d %b %Y", "%Y-%m-%dT%H:%M:%SZ", "%B %d, %Y"])
def test_usual_dates_are_read(form, tmp_path):
    days = pd.date_range("2024-01-01", periods=200)
    frame = table().assign(day=days.strftime(form))
    schema = TableData(write(tmp_path, frame), ["price"], features=["day"]).schema
    assert [(column.kind, column.width) for column in schema.encoder.columns] == [("date", 1)]


def test_names_are_left_out_with_a_notice(tmp_path, caplog):
    frame = table().assign(owner=[f"owner {number}" for number in range(200)])
    schema = TableData(write(tmp_path, frame), ["price"], features=["size", "owner"]).schema
    assert schema.columns == ["size"]
    assert "Text column left out: 'owner' with 178 different texts in 178 rows" in caplog.text


def test_thousands_separators_are_read_on_request(tmp_path):
    plain = TableData(write(tmp_path, table().round()), ["price"]).schema.targets[0]
    path = write(tmp_path, table().round().assign(price=[f"{value:,.0f}" for value in table()["price"].fillna(0)]))
    assert TableData(path, ["price"], thousands=",").schema.targets[0].kind == plain.kind == "number"
