"""A process that writes to a store until it is killed: `python -m tests.data.collections.crash FOLDER SEED`."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from random import Random

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.document import body_of, sign_document
from koii_p2p.data.collections.store import DocumentStore
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database

GENESIS, TASK = b"g" * 32, b"t" * 32
STORY = Definition("story", shards=4, indexes=("n", "words"))
SECRET = SecretKey.from_seed(b"a" * 32)


def main() -> None:
    random = Random(int(sys.argv[2]))
    with Database.open(Path(sys.argv[1])) as database:
        store = DocumentStore(database, TASK, Limits())
        store.open(STORY, SECRET.public_key, own=True)
        for step in count():
            batch = []
            for _ in range(random.randint(1, 12)):
                slot, seq = store.next_stamp(step)
                value = {"n": random.randint(0, 9), "words": random.sample("abcde", 2)}
                body = None if random.random() < 0.3 else body_of(value)  # type: ignore[arg-type]
                key = f"k{random.randint(0, 60)}"
                batch.append(
                    sign_document(
                        STORY.id, key, body, slot=slot, seq=seq, genesis=GENESIS, task=TASK, signer=SECRET
                    )
                )
            store.put(STORY, batch)
            if step % 7 == 0:
                store.purge(STORY.id, step - 20)
            if step == 30:
                store.ensure_index(STORY.id, "late")
            print(seq, flush=True)


if __name__ == "__main__":
    main()
