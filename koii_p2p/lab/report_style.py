"""How a report looks: one style sheet, inside of the page; readable on paper, on a phone, and at night."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root { --ink: #1c2733; --soft: #5b6875; --line: #d9dee4; --paper: #ffffff; --shade: #f5f7f9;
  --mark: #0b6bcb; --good: #19733b; --odd: #a8480f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #a3afbb; --line: #36414c; --paper: #161c22;
  --shade: #1f272f; --mark: #6db3f2; --good: #6fcf8f; --odd: #f0a36b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; }
.soft, caption, figcaption, .definition { color: var(--soft); }
.definition { font-weight: 400; max-width: 34rem; }
.definition, figcaption, .bounds, .theory { font-size: .86rem; }
nav { margin: 1rem 0 0; font-size: .92rem; }
nav a { color: var(--mark); margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
tbody th { font-weight: 600; }
.sweep thead th { white-space: normal; min-width: 7rem; vertical-align: bottom; }
.sweep tbody th { white-space: nowrap; }
tr.part th { padding-top: 1.4rem; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--soft); }
td .value { font-weight: 600; white-space: nowrap; }
td .bounds, td .theory { display: block; white-space: nowrap; }
.bounds { color: var(--soft); }
.agrees { color: var(--good); }
.differs { color: var(--odd); }
.first { background: var(--shade); border: 1px solid var(--line); border-radius: .5rem; }
.first { padding: .4rem 1.2rem .8rem; margin: 1.2rem 0; }
.first h3 { margin-top: .6rem; }
figure { margin: 1.2rem 0 2rem; }
figure img { width: 100%; max-width: 50rem; height: auto; background: #fff; }
figure img { border: 1px solid var(--line); border-radius: .3rem; }
figcaption { max-width: 46rem; margin-top: .3rem; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .86rem; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: .3rem; }
pre { padding: .8rem 1rem; overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .6rem 0; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--mark); }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""
