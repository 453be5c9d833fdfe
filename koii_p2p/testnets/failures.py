"""When several things done at once fail together: which failure to tell about."""

from __future__ import annotations

from typing import NoReturn

from koii_p2p.errors import OperatorError


def raise_first_failure(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first failure in a group that an operator can act on; the group itself if there is none."""
    failures, _ = group.split(OperatorError)
    if failures is None:
        raise group
    chosen: BaseException = failures
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    raise chosen from group
