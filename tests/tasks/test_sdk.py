from __future__ import annotations

import logging
from hashlib import sha256

import base58
import pytest

from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.frames import Request
from koii_p2p.tasks.sdk import Context, RequestRefused, Submitter, Task
from tests.tasks.conftest import SUBMITTER, verify

KEY = base58.b58encode(bytes(SUBMITTER.verify_key)).decode()


class ScriptedNode:
    """Answers requests like a node, with a dict as its store."""

    def __init__(self) -> None:
        self.store: dict[object, object] = {}

    async def request(self, what: Request, *arguments: object) -> object:
        match what, arguments:
            case Request.STORE_GET, (key,):
                return self.store.get(key)
            case Request.STORE_SET, (key, value):
                self.store[key] = value
                return None
            case Request.STORE_DELETE, (key,):
                self.store.pop(key, None)
                return None
            case Request.SIGN, (bytes(payload),):
                return SUBMITTER.sign(payload).signature
            case Request.VERIFY, (bytes(payload), bytes(signature), bytes(key)):
                return len(signature) == 64 and verify(payload, signature, key)
            case Request.CLOCK, ():
                return [1000, 3]
        raise RequestRefused


@pytest.fixture
def context() -> Context:
    key = bytes(SUBMITTER.verify_key)
    return Context(
        ScriptedNode(),
        task_id=b"t" * 32,
        submitter=key,
        main_account=b"w" * 32,
        slash_basis_points=7000,
        logger=logging.getLogger("test"),
    )


async def test_context_says_where_and_who_it_is(context: Context) -> None:
    assert (await context.get_slot(), await context.get_round()) == (1000, 3)
    assert context.submitter == KEY


async def test_values_that_are_not_json_are_refused(context: Context) -> None:
    for value in (object(), {1, 2}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            await context.store.set("key", value)
    assert await context.store.get("key") is None


async def test_a_signature_has_one_form_whatever_the_order_of_keys(context: Context) -> None:
    assert await context.sign({"a": 1, "b": 2}) == await context.sign({"b": 2, "a": 1})
    assert await context.sign("text") != await context.sign(b"text")


@pytest.mark.parametrize(
    "signed", ["", "0OIl", None, 5, ["x"], "1" * 100, "z" * 100_000, base58.b58encode(b"s" * 64).decode()]
)
async def test_what_another_node_sent_never_raises(context: Context, signed: object) -> None:
    assert not await context.verify(signed, KEY)
    assert not await context.verify(await context.sign("x"), signed)


async def test_a_seed_is_the_nodes_own_and_stays_the_same(context: Context) -> None:
    seed = await context.seed(3, "submitter")
    assert len(seed) == 32
    assert seed == await context.seed(3, "submitter")
    assert (
        len({seed, await context.seed(4, "submitter"), await context.seed(3, "other"), await context.seed()})
        == 4
    )
    # Whoever has a signature over the same text as a payload has not the seed, unless the task signs it so.
    assert seed != sha256((await context.sign([3, "submitter"])).encode()).digest()


async def test_a_changed_payload_does_not_verify(context: Context) -> None:
    data = bytearray(base58.b58decode(await context.sign({"paid": 1})))
    data[-2] ^= 1
    result = await context.verify(base58.b58encode(bytes(data)).decode(), KEY)
    assert not result
    assert result.payload is None


async def test_signed_bytes_that_are_not_json_are_not_valid(context: Context) -> None:
    for body in (b"jnot json", b"j" + b"[" * 100_00):
        signed = base58.b58encode(SUBMITTER.sign(body).signature + body).decode()
        assert not await context.verify(signed, KEY)


async def test_the_inherited_distribution_is_koiis(context: Context) -> None:
    """Koii docs, golden numbers: 70 % slash, equal split, the remainder stays."""
    keys = [base58.b58encode(bytes([n]) * 32).decode() for n in range(1, 6)]
    outcomes = [Outcome.APPROVED, Outcome.APPROVED, Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDECIDED]
    submitters = [Submitter(key, one, 1_900_000_000) for key, one in zip(keys, outcomes, strict=True)]
    assert [one.votes for one in submitters] == [1, 1, 1, -1, 0]
    assert await Task().distribution(context, submitters, 100_000_000, 1) == {
        keys[0]: 33_333_333,
        keys[1]: 33_333_333,
        keys[2]: 33_333_333,
        keys[3]: -1_330_000_000,
        keys[4]: 0,
    }
