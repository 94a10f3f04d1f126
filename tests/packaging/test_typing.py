"""The public API, as type checkers see it."""

from lossbalance import callbacks, conflict, penalties, weighting
from tests.packaging import typed_program

NOT_BY_USERS = {"FromTorchJD", "Attachment", "Observation", "weighted_sum"}


def test_the_program_that_type_checkers_accept_runs_and_uses_every_public_name():
    typed_program.main()
    public = {name for room in (callbacks, conflict, penalties, weighting) for name in room.__all__}
    assert public - NOT_BY_USERS <= set(vars(typed_program))
