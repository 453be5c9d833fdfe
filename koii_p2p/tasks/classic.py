"""Koii's classic template, so that such a task can be ported line for line: Submission, Audit, Distribution.

Koii docs: write-a-koii-task, and the template before September 2024. Subclass them in `task.py`, in place of one
`Task`; `ClassicTask` then calls them as Koii's coreLogic.js does. Both spellings of a method are understood
(`validateNode`, `validate_node`). `namespace_wrapper` stands for Koii's namespaceWrapper: what is submitted and voted
through it is what the node takes.

Where a node decides something that Koii leaves to the task (who audits what, who writes the list), the classic call is
still there, and does the part of it that is the task's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, TypeAlias

from koii_p2p.tasks.audits import Audited
from koii_p2p.tasks.facts import ListedAmounts, PeerSeen
from koii_p2p.tasks.folder import TaskFolder
from koii_p2p.tasks.sdk import Blobs, Context, Database, NotOffered, Signed, Submitter, Task, Verdict

__all__ = [
    "Audit",
    "ClassicTask",
    "Distribution",
    "NamespaceWrapper",
    "Submission",
    "namespaceWrapper",
    "namespace_wrapper",
]

Value: TypeAlias = str | bytes | None
Answer: TypeAlias = bool | Verdict | Audited | None
Validate: TypeAlias = Callable[..., Answer | Awaitable[Answer]]
List: TypeAlias = dict[str, int]


class JsObject(dict[str, Any]):
    """A JSON object that reads as in JavaScript: `one.votes` is `one["votes"]`, and `[7]` is `["7"]`.

    What is not there is None in brackets, as `undefined` is; behind a dot it is an `AttributeError`.
    """

    def __missing__(self, key: object) -> Any:
        return self.get(str(key)) if isinstance(key, int) else None

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"there is no {name} in it, but {', '.join(self) or 'nothing'}")


@dataclass(slots=True)
class _Call:
    """One call of the node, while it runs: what it is about, and what the task's code said through the wrapper."""

    context: Context
    audited: tuple[str | bytes, str] | None = None
    submitters: Sequence[Submitter] | None = None
    bounty: int = 0
    submitted: Value = None
    voted: Answer = None
    listed: List = field(default_factory=dict)
    registered: bool = False


_call: ContextVar[_Call] = ContextVar("koii_p2p_classic_call")


class _BothNames:
    """Lets a subclass spell a method as Koii does or as Python does: whichever it defines serves both."""

    _names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        for python, koii in cls._names.items():
            if koii in vars(cls) and python not in vars(cls):
                setattr(cls, python, vars(cls)[koii])
            elif python in vars(cls) and koii not in vars(cls):
                setattr(cls, koii, vars(cls)[python])


class Submission(_BothNames):
    """Koii's class of this name: the work, and the proof of it."""

    _names = {"submit_task": "submitTask", "fetch_submission": "fetchSubmission"}

    async def task(self, round: int) -> object:
        """Do the work of `round`."""
        return None

    async def fetch_submission(self, round: int) -> Value:
        """The proof for `round`, at most 512 bytes; what is stored under the key `value`, unless overridden."""
        found: Value = await namespace_wrapper.store_get("value")
        return found

    async def submit_task(self, round: int) -> object:
        """Submit the proof: fetch it and hand it to `namespace_wrapper.check_submission_and_update_round`."""
        value = await _run(self.fetch_submission, round)
        await namespace_wrapper.check_submission_and_update_round(value, round)
        return None

    fetchSubmission = fetch_submission
    submitTask = submit_task


class Audit(_BothNames):
    """Koii's class of this name: the check of what others submitted."""

    _names = {"validate_node": "validateNode", "audit_task": "auditTask"}

    async def validate_node(self, submission_value: str | bytes, round: int) -> Answer:
        """Whether a submission is right. Only False is INVALID here: None and exceptions are UNAVAILABLE.

        May take a third argument, the submitter's key, as Koii's current template does.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method validate_node")

    async def audit_task(self, round: int) -> object:
        """Called once for each submission that this node is drawn for."""
        await namespace_wrapper.validate_and_vote_on_nodes(self.validate_node, round)
        return None

    validateNode = validate_node
    auditTask = audit_task


class Distribution(_BothNames):
    """Koii's class of this name: the distribution list. Unless overridden, Koii's rule, as `Task.distribution`."""

    _names = {
        "generate_distribution_list": "generateDistributionList",
        "submit_distribution_list": "submitDistributionList",
        "audit_distribution": "auditDistribution",
        "validate_distribution": "validateDistribution",
        "shallow_equal": "shallowEqual",
    }

    async def generate_distribution_list(self, round: int) -> List:
        """Key -> Roe; negative is a slash. Every node must come to the same."""
        call = _current("generate_distribution_list")
        if call.submitters is None:
            raise NotOffered(
                "A list is generated when the node asks for it, with the submitters of its round."
            )
        return await Task().distribution(call.context, call.submitters, call.bounty, round)

    async def submit_distribution_list(self, round: int) -> object:
        """Generate the list and hand it over; every node does, and the leader of the round anchors it."""
        listed = await _run(self.generate_distribution_list, round)
        if not listed:
            return None
        if await namespace_wrapper.upload_distribution_list(listed, round):
            await namespace_wrapper.distribution_list_submission_on_chain(round)
        return None

    async def audit_distribution(self, round: int) -> object:
        """Never called: each node compares the anchored list with the one that it generated itself, to the Roe."""
        validate = self.validate_distribution
        await namespace_wrapper.validate_and_vote_on_distribution_list(validate, round)
        return None

    async def validate_distribution(self, distribution_list_submitter: str, round: int) -> bool:
        """Never called, as `audit_distribution`."""
        raise NotOffered("The node compares lists itself: generate_distribution_list is all that it needs.")

    def shallow_equal(self, first: Mapping[str, int], second: Mapping[str, int]) -> bool:
        """Whether two lists have the same keys with the same amounts."""
        return dict(first) == dict(second)

    generateDistributionList = generate_distribution_list
    submitDistributionList = submit_distribution_list
    auditDistribution = audit_distribution
    validateDistribution = validate_distribution
    shallowEqual = shallow_equal


class ClassicTask(Task):
    """A `Task` made of the classic three; those that a file does not define are Koii's defaults."""

    def __init__(
        self,
        submission: Submission | None = None,
        audit: Audit | None = None,
        distribution: Distribution | None = None,
    ) -> None:
        self._submission = submission or Submission()
        self._audit = audit or Audit()
        self._distribution = distribution or Distribution()

    async def task(self, ctx: Context, round: int) -> None:
        """Koii's executeTask."""
        _call.set(_Call(ctx))
        await _run(self._submission.task, round)

    async def submission(self, ctx: Context, round: int) -> Value:
        """Koii's submitPayload: what submit_task hands to check_submission_and_update_round."""
        call = _Call(ctx)
        _call.set(call)
        await _run(self._submission.submit_task, round)
        return call.submitted

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Answer:
        """Koii's auditPayload, for the one submission that the node was drawn for."""
        call = _Call(ctx, audited=(submission, submitter))
        _call.set(call)
        await _run(self._audit.audit_task, round)
        return call.voted

    async def distribution(
        self, ctx: Context, submitters: Sequence[Submitter], bounty: int, round: int
    ) -> List:
        """Koii's generateAndSubmitDistributionList: what submit_distribution_list uploads and registers."""
        call = _Call(ctx, submitters=submitters, bounty=bounty)
        _call.set(call)
        await _run(self._distribution.submit_distribution_list, round)
        return call.listed if call.registered else {}


class NamespaceWrapper:
    """Koii's namespaceWrapper inside a classic task, over the `Context` of the call that runs.

    Methods that a task must not have here raise `NotOffered`, which says what to do instead. Koii's names (`storeGet`)
    are understood beside Python's (`store_get`); docs/koii-names.md has them all.
    """

    def __getattr__(self, name: str) -> Any:
        """The method that Koii spells `name`: `storeGet` is `store_get`."""
        python = KOII_SPELLING.get(name)
        if python is not None:
            return getattr(self, python)
        if why := NOT_OFFERED.get(name):
            raise NotOffered(f"namespaceWrapper.{name}: {why}")
        raise AttributeError(f"namespaceWrapper has no {name}")

    # --- the node's key-value store, files and words

    async def store_get(self, key: str) -> Any:
        """What is kept under a key, or None."""
        return await _context("store_get").store.get(key)

    async def store_set(self, key: str, value: Any) -> None:
        """Keep a value under a key."""
        await _context("store_set").store.set(key, value)

    @property
    def fs(self) -> TaskFolder:
        """The task's working folder; its methods are those of `TaskFolder`, and not Node's."""
        return _context("fs").fs

    @property
    def data(self) -> Blobs:
        """Blobs that several nodes keep: `put` and `get`."""
        return _context("data").data

    @property
    def db(self) -> Database:
        """The task's collections: `db.collection(name)`."""
        return _context("db").db

    async def retrieve_through_http_gateway(self, cid: str, file_name: str = "") -> str:
        """The text of a blob, by the reference that `data.put` gave; there are no gateways and no file names."""
        return (await _context("retrieve_through_http_gateway").data.get(cid)).decode()

    async def payload_signing(self, body: Any) -> str:
        """Sign with the staking key, for this task only; base58 of signature and payload."""
        return await _context("payload_signing").sign(body)

    async def verify_signature(self, signed_message: object, public_key: object) -> Signed:
        """Check what `payload_signing` made; true if it is good, with the payload in `payload`."""
        return await _context("verify_signature").verify(signed_message, public_key)

    async def logger(self, level: str, message: str, action: str = "") -> bool:
        """Log to the node: level `log`, `warning` or `error`."""
        write = {"error": "error", "warning": "warning", "warn": "warning"}.get(level, "info")
        getattr(_context("logger").logger, write)("%s", f"{message} ({action})" if action else message)
        return True

    # --- where and who

    async def get_slot(self) -> int:
        """The K2 slot that the node saw last."""
        return await _context("get_slot").get_slot()

    async def get_round(self) -> int:
        """The period that the task is in."""
        return await _context("get_round").get_round()

    async def get_average_slot_time(self) -> float:
        """Milliseconds of a slot."""
        return await _context("get_average_slot_time").get_average_slot_time()

    async def get_nodes(self) -> tuple[PeerSeen, ...]:
        """The nodes of the task, with the addresses that they gave."""
        return await _context("get_nodes").nodes()

    async def get_main_account_pubkey(self) -> str:
        """The wallet of this node."""
        return _context("get_main_account_pubkey").main_account

    async def get_submitter_account(self) -> str:
        """The staking key of this node: the public one. No task sees a secret key here."""
        return _context("get_submitter_account").submitter

    async def get_task_node_version(self) -> str:
        """The version of koii_p2p."""
        return _context("get_task_node_version").node_version

    async def get_base_path(self) -> str:
        """The task's working folder."""
        return str(_context("get_base_path").fs.root)

    # --- the task's state

    async def get_task_state(self, options: object = None) -> JsObject:
        """The task as the node knows it. While a list is generated, only what every node has the same of."""
        call = _current("get_task_state")
        if call.submitters is None:
            return _js_object(asdict(await call.context.task_state()))
        return _js_object(
            {
                "bounty_amount_per_round": call.bounty,
                "stake_list": {one.public_key: one.stake for one in call.submitters},
            }
        )

    async def get_task_submission_info(self, round: int) -> JsObject:
        """`submissions` and `submissions_audit_trigger` of a round, in Koii's form.

        While a list is generated: the committed outcomes, as votes that come to the same by Koii's sum (approved: no
        trigger; rejected: one vote against; otherwise one for and one against). At other times what this node holds,
        and no triggers: who is audited is not the task's to know.
        """
        call = _current("get_task_submission_info")
        number = str(round)
        if call.submitters is None:
            held = await call.context.submissions(round)
            seen = {key: {"submission_value": one.value, "slot": one.slot} for key, one in held.items()}
            return _js_object({"submissions": {number: seen}, "submissions_audit_trigger": {number: {}}})
        votes = {1: (), -1: (False,), 0: (True, False)}
        triggers = {
            one.public_key: {"votes": [{"is_valid": valid} for valid in votes[one.votes]]}
            for one in call.submitters
            if one.votes != 1
        }
        submitted: dict[str, object] = {one.public_key: {} for one in call.submitters}
        return _js_object(
            {"submissions": {number: submitted}, "submissions_audit_trigger": {number: triggers}}
        )

    async def get_distribution_list(self, round: int) -> dict[str, ListedAmounts] | None:
        """The anchored list of a round; there is one, whoever submitted it."""
        return await _context("get_distribution_list").distribution_list(round)

    # --- what a round is made of

    async def check_submission_and_update_round(self, value: Value = "default", round: int = 0) -> None:
        """Hand in the proof of the round that the node asked for."""
        _current("check_submission_and_update_round").submitted = value

    async def validate_and_vote_on_nodes(self, validate: Validate, round: int, *_ignored: object) -> None:
        """Judge the submission that the node was drawn for, and vote: the node draws and signs."""
        call = _current("validate_and_vote_on_nodes")
        if call.audited is None:
            raise NotOffered("The node draws who audits what: votes are given while it calls audit_task.")
        value, submitter = call.audited
        more = (submitter,) if _takes(validate, 3) else ()
        call.voted = await _run(validate, value, round, *more)

    async def upload_distribution_list(self, distribution_list: Mapping[str, int], round: int) -> bool:
        """Hand over the list; True."""
        _current("upload_distribution_list").listed = dict(distribution_list)
        return True

    async def distribution_list_submission_on_chain(self, round: int) -> None:
        """Register the list that was uploaded before; on K2 the leader of the round anchors its root."""
        _current("distribution_list_submission_on_chain").registered = True

    async def validate_and_vote_on_distribution_list(self, validate: Validate, round: int) -> None:
        """Nothing is left to do: the node compares the anchored list with its own, and votes."""

    async def payout_trigger(self, round: int) -> None:
        """Nothing is left to do: any node settles, `koii-p2p claim` pays out."""


KOII_SPELLING: Final[Mapping[str, str]] = {
    "storeGet": "store_get",
    "storeSet": "store_set",
    "payloadSigning": "payload_signing",
    "verifySignature": "verify_signature",
    "logMessage": "logger",
    "getSlot": "get_slot",
    "getRound": "get_round",
    "getAverageSlotTime": "get_average_slot_time",
    "getNodes": "get_nodes",
    "getMainAccountPubkey": "get_main_account_pubkey",
    "getSubmitterAccount": "get_submitter_account",
    "getTaskNodeVersion": "get_task_node_version",
    "getBasePath": "get_base_path",
    "getTaskState": "get_task_state",
    "getTaskSubmissionInfo": "get_task_submission_info",
    "getDistributionList": "get_distribution_list",
    "checkSubmissionAndUpdateRound": "check_submission_and_update_round",
    "validateAndVoteOnNodes": "validate_and_vote_on_nodes",
    "uploadDistributionList": "upload_distribution_list",
    "distributionListSubmissionOnChain": "distribution_list_submission_on_chain",
    "validateAndVoteOnDistributionList": "validate_and_vote_on_distribution_list",
    "payoutTrigger": "payout_trigger",
    "retrieveThroughHttpGateway": "retrieve_through_http_gateway",
}
"""Koii's spelling -> ours."""

NOT_OFFERED: Final[Mapping[str, str]] = {
    "initializeDB": "db.collection(name) has documents that all nodes share; store_set keeps this node's own.",
    "getDb": "db.collection(name) has documents that all nodes share; store_set keeps this node's own.",
    "fsStaking": "the folder of keys is no task's business; ask the node to sign with payload_signing.",
    "fsWriteStream": "open the file at fs.path(name) with Python's open().",
    "fsReadStream": "open the file at fs.path(name) with Python's open().",
    "bs58Encode": "import base58, which is there.",
    "bs58Decode": "import base58, which is there.",
    "decodePayload": "verify_signature unpacks the payload.",
    "getRpcUrl": "a task has no way to K2: what it needs of it is in get_task_state.",
    "getProgramAccounts": "a task has no way to K2: what it needs of it is in get_task_state.",
    "sendAndConfirmTransactionWrapper": "no task spends its operator's money.",
    "sendTransaction": "no task spends its operator's money.",
    "claimReward": "its operator claims: koii-p2p claim.",
    "stakeOnChain": "its operator stakes: koii-p2p stake.",
    "getTaskStateById": "a task sees its own state only: get_task_state.",
    "getTaskDistributionInfo": "there is one list of a round, and get_distribution_list has it.",
    "getTaskDBPath": "tasks have no database file; store_get and store_set keep values, fs keeps files.",
    "getTaskLevelDBPath": "tasks have no database file; store_get and store_set keep values, fs keeps files.",
    "defaultTaskSetup": "the node starts the task; write setup() for what it needs.",
    "auditSubmission": "the node signs and sends votes: return the verdict from validate_node.",
    "distributionListAuditSubmission": "the node compares lists and votes.",
    "nodeSelectionDistributionList": "leaders follow from the round's beacon; the node knows them.",
    "selectAndGenerateDistributionList": "leaders follow from the round's beacon; the node calls you.",
    "fetchWithTimeout": "fetch with a library, if there is a network; a blob is had by data.get.",
}
"""What Koii's wrapper has and a task here does not, and what to do instead."""

namespace_wrapper: Final = NamespaceWrapper()
namespaceWrapper: Final = namespace_wrapper
"""What Koii's tasks import."""


def _js_object(found: Mapping[str, Any]) -> JsObject:
    return JsObject({name: _js(value) for name, value in found.items()})


def _js(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _js_object(value)
    return [_js(one) for one in value] if isinstance(value, list | tuple) else value


def _current(name: str) -> _Call:
    try:
        return _call.get()
    except LookupError:
        raise NotOffered(f"namespace_wrapper.{name} works only while the node calls the task.") from None


def _context(name: str) -> Context:
    return _current(name).context


async def _run(method: Callable[..., Any], *arguments: object) -> Any:
    """What a method returns, which its author may have written without `async`: then it runs in a thread."""
    if inspect.iscoroutinefunction(method):
        return await method(*arguments)
    value = await asyncio.to_thread(method, *arguments)
    return await value if inspect.isawaitable(value) else value


def _takes(function: Validate, count: int) -> bool:
    """Whether a function can be called with so many arguments in their order."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True
