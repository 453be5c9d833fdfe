"""How the metrics learn that a node may be cut off; whom it should have heard is in `tests/rounds/test_coverage.py`."""

from __future__ import annotations

from koii_p2p.node import resources
from tests.node.test_resources import task_use
from tests.rounds.test_coverage import PLAYED, listener


def test_of_a_task_it_is_said_how_many_were_not_heard() -> None:
    had = task_use()
    cut_off = resources.task_use(listener([]), had.worker, had.store)
    assert (cut_off.unheard, cut_off.eclipsed) == (8, True)
    heard = listener([*PLAYED.submissions.values(), *PLAYED.ballots.values()])
    well = resources.task_use(heard, had.worker, had.store)
    assert (well.unheard, well.eclipsed) == (0, False)
