"""Tasks that come to a node while it runs: those it was told to join by their id alone, and those that take over.

A task's code is named by the CID in its terms, which never change: to change the code is to create another task, and to
name it as the successor of the first, as on Koii (`migrated_to`). A node that works on a task whose creator names a
successor gets its code, and begins with it at the start of the next round of the old task if its operator trusts it.
It goes on with the old task as well, so that rounds in flight are finished and paid.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from koii_p2p.errors import ConfigurationError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.task_bootstrap import bootstrap_in
from koii_p2p.node.packages import Packages
from koii_p2p.node.task_service import TaskService
from koii_p2p.node.trust import Consent, TrustList, not_trusted, require_consent
from koii_p2p.node.views import base58, plain
from koii_p2p.records.cid import CidError, cid_from_text
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.interface import ClosedTaskState, Settlement
from koii_p2p.settlement.refusals import ClosedTask
from koii_p2p.tasks.offer import Offer, offer_of
from koii_p2p.tasks.package import Package, PackageError
from koii_p2p.tasks.package_folder import pack_folder

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Code:
    """A task's code that is on this disk, and what it offers."""

    package: Package
    folder: Path
    offer: Offer


@dataclass(frozen=True, slots=True)
class Succession:
    """How far a node is with a task that takes over: `joined`, or not and `why`."""

    task: str
    joined: bool = False
    why: str = ""


class Arrivals:
    """Brings tasks to a node: gets their code, has it allowed, adds them.

    `services` and `closed` are the node's, by the ids of tasks in base58, as they change; `chain_of` gives what holds
    a task's rounds, `add` starts a task with its code. `run` gives the packages of the folders in `own` to peers, and
    follows successors.
    """

    def __init__(
        self,
        network: Network,
        packages: Packages,
        consent: Consent,
        trusted: TrustList,
        *,
        services: Mapping[str, TaskService],
        closed: Mapping[str, ClosedTaskState],
        chain_of: Callable[[bytes], Settlement],
        add: Callable[[bytes, Path], Awaitable[None]],
        own: Mapping[bytes, Path],
        limits: Limits,
    ) -> None:
        self._network = network
        self._packages = packages
        self._consent = consent
        self._trusted = trusted
        self._services = services
        self._closed = closed
        self._chain_of = chain_of
        self._add = add
        self._own = own
        self._limits = limits
        self._successions: dict[str, Succession] = {}
        self._adding = trio.Lock()

    async def join(self, task: bytes) -> None:
        """Have the code of a task, from here or from peers, allowed by the operator, and add the task if it is new.

        Raises `NotTrusted`, `NotToBeHad`, `ClosedTask`, and `ConfigurationError` for code that cannot be used.
        """
        code = await self._code(task)
        for difference in code.offer.differences:
            log.warning("the code's settings are not the task's", task=base58(task), difference=difference)
        await require_consent(code.offer, code.folder, self._consent, self._trusted)
        await self._begin(task, code)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled."""
        task_status.started()
        self._successions = {name: one for name, one in self._successions.items() if one.joined}
        async with trio.open_nursery() as nursery:
            for name, service in list(self._services.items()):
                if (folder := self._own.get(service.terms.task)) is not None:
                    await self._offer_folder(name, service.terms, folder)
            while True:
                for name, successor in self._to_follow():
                    self._successions[name] = Succession(base58(successor))
                    nursery.start_soon(self._follow, name, successor)
                await trio.sleep(_LOOK_SECONDS)

    def view(self, task: str) -> Mapping[str, Any] | None:
        """How far the node is with the task that takes over from this one; None if there is none."""
        found: Mapping[str, Any] | None = plain(self._successions.get(task))
        return found

    # --- code

    async def _code(self, task: bytes) -> Code:
        state = await self._chain_of(task).task_state(task)
        if (peer := bootstrap_in(state.metadata)) is not None:
            self._network.add_bootstrap(peer)
        name, terms = base58(task), state.terms
        try:
            cid = cid_from_text(terms.program)
        except CidError as error:
            raise ConfigurationError(
                f"The code of task {name} cannot be had from peers.",
                f"Its program on K2 is {terms.program!r}, and not the CID of a package.",
                f"Ask its author for the code, and join with --task {name}=PATH.",
            ) from error
        try:
            package = await self._packages.get(cid)
        except PackageError as error:
            raise ConfigurationError(
                f"The code of task {name} cannot be used.",
                f"What has the CID {terms.program} is no package: {error}",
                "Only its author can mend that, with another task.",
            ) from error
        offer = await trio.to_thread.run_sync(offer_of, package, terms)
        return Code(package, self._packages.folder(cid), offer)

    async def _begin(self, task: bytes, code: Code) -> None:
        async with self._adding:  # two tasks may name the same successor
            if base58(task) in self._services:
                return
            await self._add(task, code.folder)
        await self._packages.offer(code.package)

    async def _offer_folder(self, name: str, terms: TaskTerms, folder: Path) -> None:
        """Give the package of a folder to peers, if it is what the task's terms name."""
        try:
            cid = cid_from_text(terms.program)
        except CidError:
            return
        try:
            package = (await trio.to_thread.run_sync(pack_folder, folder)).package
            if package.cid == cid:
                await self._packages.offer(package)
                return
            why = f"its package is {package.name}"
        except (PackageError, OperatorError) as error:
            why = str(error)
        log.warning("this folder is not the code that K2 names", task=name, program=terms.program, why=why)

    # --- successors

    def _to_follow(self) -> list[tuple[str, bytes]]:
        """Tasks with a successor that is neither worked on nor waited for yet."""
        found = []
        for name in {**self._services, **self._closed}:
            successor = self._successor_of(name)
            if successor is None or base58(successor) in self._services or base58(successor) in self._closed:
                continue
            known = self._successions.get(name)
            if (known is None or known.task != base58(successor)) and self._may_follow:
                found.append((name, successor))
        return found

    @property
    def _may_follow(self) -> bool:
        """A creator could name one task after the other, each with a stake to be made."""
        return len(self._successions) < self._limits.successors

    def _successor_of(self, name: str) -> bytes | None:
        service = self._services.get(name)
        if service is None or service.closed is not None:
            closed = self._closed.get(name) if service is None else service.closed
            return None if closed is None else closed.successor
        return None if service.state is None else service.state.successor

    async def _follow(self, name: str, successor: bytes) -> None:
        """Try until the successor is joined, or its creator names another; one that is closed is passed over."""
        said: set[str] = set()
        targets = [successor]
        while self._successor_of(name) == successor:
            why, further = "", None
            try:
                await self._join_when_trusted(
                    name, targets[-1], lambda: self._successor_of(name) == successor
                )
            except ClosedTask as error:
                why, further = str(error), error.state.successor
            except OperatorError as error:
                why = str(error)
            if self._successor_of(name) != successor:
                return  # its creator names another by now, which has a search of its own
            self._successions[name] = Succession(base58(successor), not why, why)
            if not why:
                return
            if why not in said:
                said.add(why)
                log.warning(
                    "the task that takes over was not joined",
                    task=name,
                    successor=base58(targets[-1]),
                    error=why,
                )
            if further is not None and further not in targets and len(targets) < self._limits.successors:
                targets.append(further)
            else:
                await trio.sleep(self._limits.successor_seconds)

    async def _join_when_trusted(self, name: str, successor: bytes, still: Callable[[], bool]) -> None:
        code = await self._code(successor)
        if self._consent.given(code.offer, self._trusted) is None:
            raise not_trusted(code.offer, code.folder, f"task {name} goes on without it")
        await self._round_boundary(name)
        if not still():
            return
        await self._begin(successor, code)
        log.warning(
            "joined the task that takes over; the stake in the old one is asked back with `koii-p2p unstake`",
            task=name,
            successor=base58(successor),
        )

    async def _round_boundary(self, name: str) -> None:
        """Wait for the next round of a task that this node works on."""
        service = self._services.get(name)
        if service is None:
            return
        engine = service.engine
        now = engine.clock.period(engine.slot)
        while service.closed is None and engine.clock.period(engine.slot) == now:
            await trio.sleep(_LOOK_SECONDS)
