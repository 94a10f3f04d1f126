import pytest
import torch
from sklearn.datasets import load_digits

from lossbalance.tasks import DigitPairs
from lossbalance.tasks.digit_pairs import compose, split

LABELS = torch.as_tensor(load_digits().target)


def pairs(**settings) -> DigitPairs:
    data = DigitPairs({"aux": "left", "main": "right"}, **settings)
    data.setup("fit")
    return data


def test_training_validation_and_test_are_composed_of_disjoint_digits_that_are_all_there():
    parts = split(LABELS, seed=0, folds=4, fold=1)
    assert torch.cat(list(parts.values())).unique().numel() == sum(map(len, parts.values())) == len(LABELS)


def test_every_part_has_each_digit_about_equally_often():
    for part in split(LABELS, seed=0, folds=5, fold=2).values():
        counts = LABELS[part].bincount(minlength=10) / len(part)
        torch.testing.assert_close(counts, torch.full((10,), 0.1), rtol=0, atol=0.02)


def test_folds_validate_on_disjoint_digits_and_leave_the_test_alone():
    folds = [split(LABELS, seed=0, folds=3, fold=fold) for fold in range(3)]
    assert torch.cat([fold["val"] for fold in folds]).unique().numel() == sum(len(fold["val"]) for fold in folds)
    for fold in folds:
        assert fold["test"].tolist() == folds[0]["test"].tolist()


def test_the_same_seed_draws_the_same_pictures_and_batches_and_another_others():
    first, again, other = pairs(seed=3), pairs(seed=3), pairs(seed=4)
    batches = [next(iter(data.train_dataloader())) for data in (first, again, other)]
    assert torch.equal(batches[0]["image"], batches[1]["image"])
    assert not torch.equal(batches[0]["image"], batches[2]["image"])


def test_a_batch_has_pictures_of_8_by_11_and_a_digit_for_each_head():
    batch = next(iter(pairs(batch_size=7).train_dataloader()))
    assert batch["image"].shape == (7, 8, 11)
    assert batch["image"].min() >= 0
    assert batch["image"].max() == 1
    assert batch["aux"].shape == batch["main"].shape == (7,)
    assert batch["aux"].dtype == torch.int64


def test_the_right_digit_is_drawn_three_pixels_further_on_over_the_left_one():
    left, right = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    left[0, 0, 0], left[0, 1, 7] = 5.0, 2.0
    right[0, 0, 0], right[0, 1, 4] = 3.0, 9.0
    picture = compose(left, right)[0]
    assert picture.nonzero().tolist() == [[0, 0], [0, 3], [1, 7]]
    assert [picture[0, 0].item(), picture[0, 3].item(), picture[1, 7].item()] == [5.0, 3.0, 9.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"fold": 4}, "`fold` must be"),
        ({"folds": 1}, "`folds` must be"),
        ({"unit": 0}, "`unit` must be a positive number, got 0"),
        ({"targets": {"aux": "lefft"}}, r"`targets.aux` must be one of .* \(did you mean 'left'\?\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DigitPairs(**{"targets": {"aux": "left"}, **settings})
