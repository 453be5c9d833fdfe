"""How many auditors does it take? A worked experiment, as a notebook in a script.

python examples/experiments/how_many_auditors.py [--nodes 200] [--rounds 10] [--seeds 5] [--out FOLDER]

Editors that know `# %%` show it cell by cell. It needs the packages of `pip install -e '.[lab]'`.
"""

# %% [markdown]
# An auditor who never looks saves the work of looking. A task can draw more auditors for each submission, which costs
# more looks. How many does it take until wrong work is found nearly always, if a part of all nodes is lazy?

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from koii_p2p import lab
from koii_p2p.lab.closed_forms import caught_by_auditors

parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("--nodes", type=int, default=200)
parser.add_argument("--rounds", type=int, default=10)
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--out", type=Path, default=Path("lab-runs/how-many-auditors"))
options = parser.parse_args()

# %% [markdown]
# A scenario is a table. Lists of values among the settings are the axes of a sweep.

# %%
AUDITORS = [1, 2, 3, 5, 8]
LAZY = [0.2, 0.45]

scenario = {
    "name": "how-many-auditors",
    "title": "How many auditors does it take?",
    "question": "How does the chance that wrong work is found grow with the auditors of a submission?",
    "engine": "fast",
    "metrics": ["detection", "looks"],
    "network": {"nodes": options.nodes},
    "population": {"fraudulent": 0.05, "lazy": 0.2},
    "economy": {"slash": 0},  # so that whoever cheats is there in the next round
}
found = lab.run(
    scenario,
    {"protocol.auditors": AUDITORS, "population.lazy": LAZY},
    rounds=options.rounds,
    seeds=options.seeds,
)

# %% [markdown]
# Metrics are a Polars frame: a row for each metric of each arm, with its 95 % interval and its closed form.

# %%
detection = found.metrics.filter(pl.col("name") == "detection")
print(detection.select("arm", "value", "low", "high", "closed_form", "count"))

# %% [markdown]
# The closed form by hand: with 45 % of all nodes lazy, the others look, and one of m auditors has to be among those.

# %%
others = options.nodes - 1
diligent = options.nodes - round(0.45 * options.nodes) - 1
for auditors in AUDITORS:
    print(f"m = {auditors}: {float(caught_by_auditors(others, diligent, auditors)):.4f}")

# %% [markdown]
# Everything that happened is there as well: which wrong submissions did nobody find, and how many honest looks did
# they get?

# %%
missed = found.submissions.filter(pl.col("fraud") & (pl.col("finders") == 0))
print(missed.group_by("arm", maintain_order=True).agg(pl.len().alias("missed"), pl.col("looks").max()))

# %% [markdown]
# A report that somebody else understands:

# %%
print(lab.write_report(found, options.out))
