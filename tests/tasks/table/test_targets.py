import numpy as np
import pandas as pd
import pytest

from lossbalance.tasks.table.targets import find_targets

NAN = np.nan


def find(kinds=None, **columns):
    frame = pd.DataFrame(columns)
    return find_targets(frame, kinds or {}, np.arange(len(frame)))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, 2.0, 3.0], "number"),
        (list(range(11)), "number"),
        ([0, 1, 1, 0], "binary"),
        ([0.0, NAN, 1.0], "binary"),
        ([True, False, True], "binary"),
        (["no", "yes", None], "binary"),
        (["a", "b", "c"], "classes"),
        ([1, 2, 3, 1], "classes"),
        ([1.0, 2.0, NAN, 3.0], "classes"),
    ],
)
def test_the_kind_is_found(values, kind):
    (target,) = find(x=values)
    assert target.kind == kind
    assert np.isnan(target.labels(pd.Series(values))).tolist() == pd.isna(pd.Series(values)).tolist()


def test_classes_are_numbered_in_order():
    (target,) = find(x=["c", None, "a", "b"])
    np.testing.assert_array_equal(target.labels(pd.Series(["c", None, "a", "b"])), [2, NAN, 0, 1])
    assert target.classes == ("a", "b", "c")


def test_the_kind_can_be_said():
    (target,) = find({"x": "number"}, x=[1, 2, 3])
    assert target.kind == "number"


@pytest.mark.parametrize(
    ("kinds", "values", "message"),
    [
        ({"y": "number"}, [1, 2], r"`task.kinds` must be one of \['x'\], got 'y'"),
        ({"x": "numbers"}, [1, 2], r"`task.kinds.x` must be one of .* \(did you mean 'number'\?\)"),
        ({"x": "number"}, ["a", "b"], "`task.kinds.x` must be binary or classes for a column of text"),
        ({"x": "binary"}, [1, 2, 3], "`task.kinds.x` must be number or classes for 3 values, got 'binary'"),
        ({}, [5.0, NAN, 5.0], r"`task.targets` must be columns that differ .* got 'x': 5.0 in all 2 rows"),
        ({}, [NAN, NAN], "got 'x': no label at all"),
    ],
)
def test_what_does_not_fit_is_refused(kinds, values, message):
    with pytest.raises(ValueError, match=message):
        find(kinds, x=values)
