"""How a report looks: one style sheet, for screens of any width, light and dark, and for paper."""

STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --card: #ffffff; --ink: #1c2128;
  --faint: #636c76;
  --line: #d8dee4; --head: #f6f8fa; --best: #fff4e5; --star: #d9480f; --blue: #0b6bcb;
  --good: #1a7f37; --warn: #9a6700; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --card: #161b22; --ink: #e6edf3;
  --faint: #8d96a0; --line: #30363d; --head: #1c2229; --best: #33260f; --star: #ff8b4d;
  --blue: #58a6ff; --good: #3fb950; --warn: #d29922; --bad: #f85149; }
  .plots img { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 40px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
.sub { width: 100%; color: var(--faint); margin: 0; }
.status { font-size: 13px; font-weight: 600; padding: 2px 12px; border-radius: 99px;
  border: 1px solid currentColor; color: var(--faint); }
.complete { color: var(--good); } .stopped { color: var(--blue); }
.interrupted { color: var(--warn); } .failed { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px;
  margin: 22px 0 14px; }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 14px 18px; }
.card .name, .card .note { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
.card .value { font-size: 25px; line-height: 1.3; font-weight: 650;
  font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.card.first .value { color: var(--star); }
section { padding: 18px 20px; margin: 14px 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 20px; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 14px 0 0; padding: 12px 14px; background: var(--head);
  border-left: 3px solid var(--bad);
  border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px;
  align-items: start; }
.pair section { margin: 0; height: 100%; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  gap: 8px 18px; }
.plots img { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto; }
p.note { color: var(--faint); margin: 0 0 12px; } .plots + p.note { margin: 12px 0 0; }
.scroll { overflow: auto; max-height: 560px; margin: 0 -20px -18px;
  border-top: 1px solid var(--line);
  border-radius: 0 0 10px 10px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--head); font-weight: 600; z-index: 1; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card);
  padding-left: 20px; }
th:first-child { background: var(--head); z-index: 2; }
tr:last-child td { border-bottom: none; }
tr.best td { background: var(--best); font-weight: 600; } .star { color: var(--star); }
.fits td, .fits th { text-align: left; white-space: normal; }
footer { color: var(--faint); font-size: 13px; margin-top: 20px; }
@media (max-width: 720px) { main { padding: 20px 12px; } .pair {
  grid-template-columns: minmax(0, 1fr); }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .card { padding: 10px 14px; } .card .value { font-size: 20px; } h1 { font-size: 23px; }
  section { padding: 14px; } .scroll { margin: 0 -14px -14px; }
  th, td { padding: 5px 10px; } th:first-child, td:first-child { padding-left: 14px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin: 0 0 8px; } }
@media print { body { background: none; } .scroll { max-height: none; overflow: visible; }
  section, .card { break-inside: avoid; } section.long { break-inside: auto; } }
"""
