"""How `testnet chaos` in one shell reaches the `testnet up --keep` of another, which owns the processes.

One line of JSON each way over loopback: `{"token", "chaos"}`, then any number of `{"note"}`, then `{"counts"}` or
`{"error": [what, why, remedy]}`. When the asker hangs up, what was begun is undone.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from koii_p2p.errors import ConfigurationError, NetworkError, OperatorError, raise_operator_error
from koii_p2p.testnets.chaos import MOST_BYTES, Step, chaos_of, play_chaos
from koii_p2p.testnets.folder import NetFolder

if TYPE_CHECKING:
    from koii_p2p.testnets.net import RunningNet

ASK_SECONDS: Final = 5.0
_MOST_LINE: Final = 4 * MOST_BYTES
"""JSON may take several bytes for one of the file's."""
_PIECE: Final = 4096


async def serve_chaos(net: RunningNet, note: Callable[[str], None]) -> None:
    """Play what is asked for, one at a time, until cancelled. Everything that is done is noted here as well."""
    token = secrets.token_urlsafe(32)
    busy = trio.Lock()

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await _answer(net, stream, token, busy, note)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            note("whoever asked for chaos has gone")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listeners[0].socket.getsockname()[:2]
    net.listens(str(host), int(port), token)
    await trio.serve_listeners(serve, listeners)


async def _answer(
    net: RunningNet, stream: trio.SocketStream, token: str, busy: trio.Lock, note: Callable[[str], None]
) -> None:
    with trio.move_on_after(ASK_SECONDS) as waiting:
        request = await _first_line(stream)
    if waiting.cancelled_caught or not hmac.compare_digest(
        str(request.get("token")).encode(), token.encode()
    ):
        return
    try:
        steps = chaos_of(str(request.get("chaos")), len(net.nodes))
        busy.acquire_nowait()
    except trio.WouldBlock:
        error = ("There is chaos already.", "Another shell asked for it.", "Wait until it is over.")
        await _say(stream, {"error": error})
        return
    except ConfigurationError as error:
        await _say(stream, {"error": (error.what, error.why, error.remedy)})
        return
    try:
        await _play_and_tell(net, stream, steps)
    except OperatorError as error:
        note(f"chaos ended: {error.what} {error.why}")
        await _say(stream, {"error": (error.what, error.why, error.remedy)})
    else:
        await _say(stream, {"counts": net.network_play.counts})
    finally:
        busy.release()


async def _play_and_tell(net: RunningNet, stream: trio.SocketStream, steps: tuple[Step, ...]) -> None:
    """Play, and pass on what is noted meanwhile; stop when the other end hangs up. Raises `OperatorError`."""
    sender, receiver = trio.open_memory_channel[str](1000)

    async def tell() -> None:
        async for text in receiver:
            await _say(stream, {"note": text})

    async def watch(scope: trio.CancelScope) -> None:
        while await stream.receive_some(_PIECE):
            pass
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(watch, scope)
                    with net.network_play.heard_by(sender.send_nowait):
                        await play_chaos(steps, net.network_play)
                    inner.cancel_scope.cancel()
            sender.close()
    except BaseExceptionGroup as group:
        raise_operator_error(group)


async def _first_line(stream: trio.SocketStream) -> dict[str, Any]:
    data = b""
    while b"\n" not in data and len(data) <= _MOST_LINE and (more := await stream.receive_some(_PIECE)):
        data += more
    try:
        found = json.loads(data.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def _say(stream: trio.SocketStream, value: dict[str, Any]) -> None:
    await stream.send_all(json.dumps(value).encode() + b"\n")


# --- who asks


async def ask_for_chaos(folder: NetFolder, text: str) -> AsyncGenerator[dict[str, Any], None]:
    """Have chaos played in the testnet of a folder; yields what it notes as `{"note"}`, and `{"counts"}` at the end.

    Raises `ConfigurationError` if none goes on there, `CheckFailed` or another `OperatorError` if it cannot be played.
    """
    state = folder.read() if folder.is_held() else None
    if state is None or state.control is None:
        raise ConfigurationError(
            f"No testnet in {folder.path} can have chaos.",
            "It has not come to its check yet." if state is not None else "None runs there.",
            "Start one with `koii-p2p testnet up --keep`, and wait until it says that it goes on.",
        )
    host, port, token = state.control
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await _say(stream, {"token": token, "chaos": text})
            data = b""
            while more := await stream.receive_some(_PIECE):
                *lines, data = (data + more).split(b"\n")
                for line in lines:
                    found = json.loads(line)
                    if "error" in found:
                        raise ConfigurationError(*found["error"])
                    yield found
                    if "counts" in found:
                        return
    except (OSError, trio.BrokenResourceError) as error:
        raise _gone(str(error)) from error
    raise _gone("It hung up.")


def _gone(why: str) -> NetworkError:
    return NetworkError("The testnet does not answer.", why, "Look at it with `koii-p2p testnet status`.")
