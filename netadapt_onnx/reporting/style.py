"""How a report looks: light and dark, from 390 px to a wide screen, and on paper."""

from __future__ import annotations

# A table or chart that is wider than the page scrolls by itself, and shadows at its sides say that there is more.
STYLE = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5b6270; --paper: #fff; --card: #f5f6f8; --line: #dcdfe4;
  --good: #14733b; --bad: #b3261e; --before: #b9c4d4; --after: #2a9d55; --mark: #e3f4e9; --shade: #0003; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3a9b3; --paper: #16181b; --card: #1f2226;
  --line: #33373d; --good: #5fce8c; --bad: #ff8a80; --before: #4a5566; --after: #37b368; --mark: #1d3527;
  --shade: #fff3; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 80rem; padding: 1rem clamp(1rem, 3vw, 2.5rem) 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 0.4rem; } h3 { font-size: 1rem; margin: 1.4rem 0 0.2rem; }
p { max-width: 90ch; margin: 0.5rem 0; } p.soft, figcaption { color: var(--soft); }
p.headline { font-size: clamp(1.35rem, 3.2vw, 2.1rem); line-height: 1.25; font-weight: 650; margin: 0.3rem 0 0.8rem;
  max-width: none; overflow-wrap: normal; }
p.verdict { font-size: 1.05rem; font-weight: 600; } .met { color: var(--good); } .missed { color: var(--bad); }
p.note { border-left: 3px solid var(--line); padding-left: 0.7rem; }
p.command { font: 0.85rem/1.5 ui-monospace, monospace; background: var(--card); border-radius: 6px;
  padding: 0.6rem 0.8rem; max-width: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 10.5rem), 1fr)); gap: 0.8rem;
  margin: 1.2rem 0; }
.card { background: var(--card); border-radius: 8px; padding: 0.8rem 1rem; } .card p { margin: 0; }
.card .name { color: var(--soft); font-size: 0.9rem; } .card .value { font-size: 1.6rem; font-weight: 650; }
.card .small { font-size: 0.85rem; color: var(--soft); } .card .small:is(.met, .missed) { color: var(--good); }
.card .small.missed { color: var(--bad); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; height: auto; } figure.narrow { display: none; }
figure .vega-embed { display: block; width: 100%; }
figure .role-axis-label text, figure .role-axis-title text, figure .role-legend-label text,
figure .role-title-text text { fill: var(--soft); }
figure .role-mark text { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.wide { overflow-x: auto; margin: 0.6rem 0 1rem; scrollbar-width: thin;
  background: linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 2.5rem 100% local no-repeat,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 2.5rem 100% local no-repeat,
  linear-gradient(to right, var(--shade), transparent) 0 0 / 0.9rem 100% scroll no-repeat,
  linear-gradient(to left, var(--shade), transparent) 100% 0 / 0.9rem 100% scroll no-repeat; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { text-align: right; padding: 0.25rem 1.4rem 0.25rem 0; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
.t { text-align: left; white-space: normal; overflow-wrap: break-word; }
.long { overflow-wrap: anywhere; min-width: clamp(9rem, 20vw, 15rem); }
tr.marked td { background: var(--mark); font-weight: 600; }
tr.marked td:first-child { box-shadow: inset 3px 0 var(--good); }
tr.marked td:first-child { padding-left: 0.5rem; }
.bar { display: block; position: relative; width: clamp(7rem, 18vw, 16rem); height: 0.75rem; margin-top: 0.4rem; }
.bar i, .bar b { position: absolute; left: 0; top: 0; height: 100%; border-radius: 2px; background: var(--before); }
.bar b { background: var(--after); height: 60%; top: 20%; }
.key { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; background: var(--before); }
.key.after { background: var(--after); }
summary { cursor: pointer; color: var(--soft); margin: 0.6rem 0; }
@media (max-width: 640px) { figure.broad { display: none; } figure.narrow { display: block; }
  table { font-size: 0.85rem; } th, td { padding-right: 0.8rem; } }
@media print { body { max-width: none; font-size: 11px; } figure, .card { break-inside: avoid; }
  .wide { overflow: visible; background: none; } }
"""
