"""Why the settlement program refuses a transaction: one code per reason, and the errors that callers catch.

The members of `ProgramError` become the `ERR_*` constants of `program/layout.h`, so the C source has no
codes of its own.
"""

from __future__ import annotations

from enum import IntEnum

import base58

from koii_p2p.errors import ChainError
from koii_p2p.settlement.interface import ClosedTaskState


class ProgramError(IntEnum):
    """The custom error code of a refused instruction. `meaning`, also the member's docstring, says what was
    wrong.

    The codes start above 1000 because those of the system program, which ours calls, are small: a payer
    without enough Roe fails with 1.
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ProgramError:
        """Make a member of its code and what it means."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.__doc__ = meaning
        return member

    ACCOUNT_COUNT = 1001, "The instruction takes another number of accounts."
    DATA_LENGTH = 1002, "The instruction's data has the wrong length."
    UNKNOWN_TAG = 1003, "There is no such instruction."
    TASK_CLOSED = (
        1004,
        "The task is closed; what remains of its account keeps its address from being used again.",
    )
    CALLED_BY_PROGRAM = (
        1005,
        "Another program made the call; only transactions may, so that their list is the whole history.",
    )
    MISSING_SIGNATURE = 1006, "An account that must sign did not."
    NOT_WRITABLE = 1007, "An account that must change was passed read-only."
    WRONG_OWNER = 1008, "An account does not belong to the settlement program."
    WRONG_SIZE = 1009, "An account's data has the wrong length."
    WRONG_MAGIC = 1010, "An account's data is of another kind or version."
    WRONG_TASK_ADDRESS = 1011, "The task account is not at the address of its creator and nonce."
    WRONG_VAULT_ADDRESS = 1012, "The vault is not the task's."
    WRONG_STAKE_ADDRESS = 1013, "The stake account is not the one of this task and staker."
    WRONG_SYSTEM_PROGRAM = 1014, "The system program was expected in this place."
    ALREADY_EXISTS = 1015, "There is a task with this creator and nonce."
    ARITHMETIC = 1016, "A sum or product does not fit into 64 bits."
    SYSCALL = 1017, "The runtime refused a service (clock, rent, hashing or a transfer)."
    RENT_UNSUPPORTED = 1018, "The cluster's rent exemption threshold is neither one nor two years."

    TERMS_TIMING = (
        1020,
        "A window or the round time is zero or too long, the two windows together are longer than a round, "
        "or the audit has fewer than the 6 slots that every profile but koii needs.",
    )
    TERMS_STAKE = 1021, "The minimum stake is zero or the slash is above 10 000 basis points."
    TERMS_AUDIT = (
        1022,
        "An audit rule is unknown or out of its range, two of them contradict each other, "
        "or more than 15 failed distributions are allowed.",
    )
    TERMS_NAME = 1023, "The task's name or its program is empty."

    ZERO_AMOUNT = 1030, "An amount of zero was to be moved."
    STAKE_BELOW_MINIMUM = 1031, "The stake would be below the task's minimum afterwards."
    BENEFICIARY_EMPTY = 1032, "The beneficiary of a new stake is the all-zero key."
    BENEFICIARY_CHANGED = 1033, "A top-up names another beneficiary than the stake has."
    NOT_THE_STAKER = 1034, "The signer is not the staker of this stake account."
    ANCHORER_BELOW_MINIMUM = 1035, "The anchoring or vetoing staker holds less than the minimum stake."
    STAKE_OF_ANOTHER_TASK = 1036, "The stake account belongs to another task."
    NOT_THE_CREATOR = 1037, "The signer is not the creator of the task."
    TASK_INACTIVE = (
        1038,
        "The task is inactive: it takes no stakes, and no commitment to a round whose work would have begun since.",
    )

    WRONG_ATTEMPT = 1040, "The round is not at this attempt."
    COMMITMENT_EARLY = 1041, "The commitment window of this round is not open yet."
    COMMITMENT_LATE = 1042, "The commitment window of this round is over."
    COMMITMENT_EXISTS = 1043, "This attempt of the round has a commitment already."
    NO_COMMITMENT = 1044, "The round has no commitment, so it gets no list."
    LIST_EARLY = 1045, "The distribution window of this round is not open yet."
    LIST_LATE = 1046, "The distribution window of this round is over."
    LIST_EXISTS = 1047, "This attempt of the round has a distribution list already."
    TOTALS_DECREASE = 1048, "A cumulative total is below that of the newest list."
    REWARDS_ABOVE_BOUNTY = 1049, "The new rewards are above the round's bounty plus the new slashes."
    REWARDS_ABOVE_VAULT = (
        1050,
        "The rewards promised and not yet paid are above the vault plus the slashes not yet taken.",
    )
    SLASHES_ABOVE_STAKES = 1051, "The slashes announced and not yet taken are above all stakes together."
    LIST_ORDER = 1052, "A list of a later round stands: lists are anchored in ascending order of rounds."
    ATTEMPTS_USED_UP = (
        1053,
        "The task allows no further attempt of this round, or sixteen were rejected, the most there can be.",
    )
    BARRED = (
        1054,
        "The signer anchored the rejected attempt before this one, so others have to anchor this one.",
    )

    VETO_EARLY = 1055, "The audit of this distribution list is not open yet."
    VETO_LATE = 1056, "The audit of this distribution list is over; it can no longer be rejected."
    ALREADY_VETOED = 1057, "This stake is against the distribution list already."
    ALREADY_REJECTED = 1058, "This distribution list is rejected already."
    WRONG_ANCHORER = (
        1059,
        "The stakes passed with the veto are not those of who anchored the attempt, whose bonds it may take.",
    )

    NO_LIST = 1060, "The round has no distribution list that the task account remembers."
    SETTLE_EARLY = 1061, "The list's audit is not over yet."
    PROOF_SHAPE = 1062, "The proof has more than 24 siblings, or directions without siblings."
    PROOF_INVALID = 1063, "The proof does not lead from the leaf to the anchored root."
    LEAF_OF_ANOTHER_STAKER = 1064, "The leaf's key is not the staker of the stake account."
    WRONG_BENEFICIARY = 1065, "The account to be paid is not the stake's beneficiary."
    REWARDS_ABOVE_LIST = 1066, "More rewards would be paid than the newest settled list promised in total."
    SLASHES_ABOVE_LIST = 1067, "More slashes would be taken than the newest settled list announced in total."
    VAULT_SHORT = 1068, "The vault does not hold the reward."
    BENEFICIARY_BELOW_RENT = (
        1069,
        "What is paid would leave the beneficiary below the rent minimum, which the runtime does not allow.",
    )

    ALREADY_UNSTAKING = 1070, "The stake is asked back already."
    NOT_UNSTAKING = 1071, "The stake was not asked back, so it is not paid out."
    NOTHING_STAKED = 1072, "The stake account holds nothing that could be asked back."
    STILL_LOCKED = (
        1073,
        "The stake is locked for three round times after it was asked back, and until the list of the round that "
        "was worked on then is settled or can no longer come.",
    )
    VETO_STILL_OPEN = 1074, "The stake is against a list whose audit is not over, and counts until then."
    BOND_STILL_LOCKED = (
        1075,
        "The staker anchored an attempt that can still be rejected; its bond stays until then.",
    )
    NOT_THE_NEWEST_LIST = 1076, "The leaf has to be that of the newest list whose audit is over."
    LEAF_NEEDED = (
        1077,
        "The stake was in a roster and lists are settled, so it is paid out only with its leaf of the newest one; "
        "without it, when no list was anchored for 64 round times.",
    )

    NOT_A_FLAG = 1080, "Active is 0 or 1."
    WRONG_SUCCESSOR = 1081, "The successor is not a task of this program."
    TASK_ACTIVE = 1082, "The task is active; make it inactive before it is closed."
    STAKES_REMAIN = 1083, "Stakes are left in the task; it is closed when all are withdrawn."
    ROUNDS_OPEN = 1084, "A round of the task can still be listed or rejected."
    REWARDS_OWED = (
        1085,
        "Listed rewards are not paid yet: settle them. They lapse 64 round times after the newest list.",
    )
    TASK_NOT_CLOSED = 1086, "The task is not closed, so the stake account may still be needed."


_BY_CODE = {int(error): error for error in ProgramError}


def program_error(code: int) -> ProgramError | None:
    """The reason behind a custom error code, or None if the program has no such code."""
    return _BY_CODE.get(code)


class ProgramRefused(ChainError):
    """The settlement program refused a transaction; `error` says why. At most the fee was taken."""

    def __init__(self, action: str, error: ProgramError) -> None:
        super().__init__(
            f"K2 refused to {action}.",
            error.meaning,
            "Nothing was changed; `koii-p2p task show` shows the task's terms, rounds, stakes and vault.",
        )
        self.error = error


class AlreadyAnchored(ProgramRefused):
    """Somebody anchored this round first, which is normal: read the task and compare with one's own."""


class AlreadyVetoed(ProgramRefused):
    """Nothing is left to do against this list: the stake is against it already, or it is rejected."""


class PayerShort(ChainError):
    """The paying key does not hold what the transaction moves, its rent and its fee."""

    def __init__(self, action: str, payer: bytes) -> None:
        name = base58.b58encode(payer).decode()
        super().__init__(
            f"K2 refused to {action}.",
            f"The wallet {name} does not hold enough Roe for it, the rent of new accounts and the fee.",
            "Send it Roe (on a local K2: `koii-p2p k2 airdrop`) and try again.",
        )
        self.payer = payer


class NotCarried(ChainError):
    """What this carrier cannot do, whatever it is given: `why` says what it lacks, `remedy` what to do instead."""

    def __init__(self, carrier: str, action: str, why: str, remedy: str) -> None:
        super().__init__(f"The {carrier} carrier cannot {action}.", why, remedy)
        self.carrier = carrier


class UnknownTask(ChainError):
    """There is no task at this address on this cluster."""

    def __init__(self, task: bytes) -> None:
        super().__init__(
            f"There is no task {base58.b58encode(task).decode()} on this cluster.",
            "Its account does not exist or does not belong to the settlement program.",
            "Check the task's address, and that --url (of `join`: --cluster) names the cluster that it is on.",
        )


class ClosedTask(UnknownTask):
    """The task was closed by its creator; `state` is what K2 keeps of it."""

    def __init__(self, task: bytes, state: ClosedTaskState) -> None:
        successor = (
            "" if state.successor is None else f" It names {base58.b58encode(state.successor).decode()}."
        )
        ChainError.__init__(
            self,
            f"The task {base58.b58encode(task).decode()} was closed in slot {state.closed_slot}.",
            "Its creator closed it after all stakes were withdrawn.",
            f"Join the task that takes over, if its creator named one.{successor}",
        )
        self.state = state


class DamagedAccount(ChainError):
    """An account of the settlement program holds bytes that the program cannot have written."""

    def __init__(self, address: bytes, why: str) -> None:
        super().__init__(
            f"The account {base58.b58encode(address).decode()} cannot be read.",
            why,
            "The K2 node may be lying, or this software be too old for this cluster; try another --url.",
        )
        self.address = address
