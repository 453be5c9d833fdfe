"""Failures an operator can act on: one sentence of what, one of why, one of what to do."""

from __future__ import annotations

from typing import NoReturn


class OperatorError(Exception):
    """A failure that is not a bug. The command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(f"{what} {why} {remedy}")
        self.what = what
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[OperatorError], tuple[str, str, str]]:
        # Work in other processes hands its errors back pickled, which takes them apart by their arguments.
        return type(self), (self.what, self.why, self.remedy)


class CheckFailed(OperatorError):
    """Something was checked and found wrong (exit code 1)."""

    exit_code = 1


class ConfigurationError(OperatorError):
    """A setting, key file, folder or task package cannot be used as it is (exit code 3)."""

    exit_code = 3


class NetworkError(OperatorError):
    """A peer, port or address cannot be used (exit code 4)."""

    exit_code = 4


class ChainError(OperatorError):
    """K2 cannot be reached, or refused a transaction (exit code 5)."""

    exit_code = 5


def operator_error_in(error: BaseException) -> OperatorError | None:
    """Return the first `OperatorError` in an exception group, however deep, or the error itself if it is one.

    Nurseries wrap what leaves them in groups; the operator is shown the one sentence inside.
    """
    if isinstance(error, OperatorError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (operator_error_in(inner) for inner in error.exceptions)
        return next((inner for inner in found if inner is not None), None)
    return None


def raise_operator_error(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the first `OperatorError` in a group, with the group as its cause; the group itself if there is none."""
    known = operator_error_in(group)
    if known is None:
        raise group
    raise known from group
