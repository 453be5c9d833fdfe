from __future__ import annotations

from importlib import metadata

import pytest
import trio
import trio.testing

from koii_p2p.errors import NetworkError
from koii_p2p.network import containment
from koii_p2p.network.containment import SEAMS, Guard, Seam, at_most, check_library


def test_the_installed_library_is_the_expected_one() -> None:
    check_library()
    assert len({(seam.owner, seam.method) for seam in SEAMS}) == len(SEAMS)
    assert all(seam.fault.endswith(".") for seam in SEAMS)


@pytest.mark.parametrize(
    ("seam", "says"),
    [
        (Seam("libp2p.host.basic_host.BasicHost", "gone", ("self",), "x"), "BasicHost.gone is missing"),
        (Seam("libp2p.network.swarm.Swarm", "dial_peer", ("self", "other"), "x"), "dial_peer takes"),
    ],
)
def test_a_library_with_other_seams_is_refused(
    monkeypatch: pytest.MonkeyPatch, seam: Seam, says: str
) -> None:
    monkeypatch.setattr(containment, "SEAMS", (*SEAMS, seam))
    with pytest.raises(NetworkError, match=says):
        check_library()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.9.0")
    with pytest.raises(NetworkError, match=r"0\.9\.0"):
        check_library()


def test_every_override_is_really_one() -> None:
    """Each seam is overridden by one of our subclasses, so that the table says what is true."""
    from koii_p2p.network.host import ContainedHost, ContainedSwarm
    from koii_p2p.network.sockets import ExclusiveListener, ExclusiveTCP
    from koii_p2p.network.upgrader import ContainedUpgrader

    ours = (ContainedHost, ContainedSwarm, ContainedUpgrader, ExclusiveListener, ExclusiveTCP)
    by_base = {cls.__mro__[1].__name__: cls for cls in ours}
    for seam in SEAMS:
        assert seam.method in vars(by_base[seam.owner.rpartition(".")[2]]), seam


def test_ordinary_exceptions_are_absorbed_and_counted() -> None:
    guard = Guard()
    for error in (
        ValueError("a"),
        trio.TooSlowError(),
        ExceptionGroup("g", [KeyError("b"), ValueError("c")]),
    ):
        with guard.contain("here"):
            raise error
    guard.count("there", "Reason")
    assert guard.statistics() == (
        ("here:KeyError", 1),
        ("here:TooSlowError", 1),
        ("here:ValueError", 1),
        ("there:Reason", 1),
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_interrupts_pass(error: BaseException) -> None:
    with pytest.raises(type(error)), Guard().contain("here"):
        raise error


async def test_cancellation_passes_also_when_mixed_with_errors() -> None:
    guard = Guard()

    async def failing_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while being cancelled")

    with trio.CancelScope() as scope:
        with guard.contain("here"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(failing_late)
                nursery.start_soon(trio.sleep_forever)
                await trio.lowlevel.checkpoint()
                scope.cancel()
        await trio.lowlevel.checkpoint()
        raise AssertionError("cancellation was absorbed")
    assert scope.cancelled_caught
    assert guard.statistics() == (("here:ValueError", 1),)


async def test_closing_scopes_end_in_time_and_keep_cancellation_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.CancelScope() as outer:
        outer.cancel()
        started = trio.current_time()
        with at_most(2.0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() - started == pytest.approx(2.0)
