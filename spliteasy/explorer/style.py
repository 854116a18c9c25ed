"""The look of the explorer: style sheets in JupyterLab's own variables, for light and dark themes."""

from __future__ import annotations

__all__ = ["CONTROLS", "GUTTER", "KIND_COLORS", "MARGIN", "SEGMENT_COLORS", "STYLE"]

GUTTER = 64
"""Pixels left of the bars, for the axis."""

MARGIN = 14
"""Pixels right of the bars."""

SEGMENT_COLORS = {"A": "#2f7fd6", "B": "#e8912d", "C": "#1fa187"}
"""Device, server, and device again. Told apart also by those who do not see red and green."""

KIND_COLORS = {
    "device": SEGMENT_COLORS["A"], "codecs": "#9aa0a6", "up": "#7b4fa3", "server": SEGMENT_COLORS["B"],
    "down": "#c39bd8", "trips": "#5f6368",
}  # fmt: skip
"""What takes time in a step (`budget.KINDS`)."""

_VARIABLES = (
    ".spliteasy { "
    + "".join(f"--se-{letter.lower()}: {color}; " for letter, color in SEGMENT_COLORS.items())
    + f"--se-gutter: {GUTTER}px; --se-margin: {MARGIN}px; }}"
    + "".join(f" .spliteasy .se-{kind} {{ --se-own: {color}; }}" for kind, color in KIND_COLORS.items())
)

STYLE = (
    _VARIABLES
    + """
.spliteasy {
  --se-text: var(--jp-content-font-color1, #212121); --se-ink: var(--jp-content-font-color0, #111);
  --se-dim: var(--jp-content-font-color2, #616161);
  --se-line: var(--jp-border-color2, #d5d5d5);
  --se-panel: var(--jp-layout-color1, #ffffff);
  --se-soft: var(--jp-layout-color2, #f4f4f4);
  font-family: var(--jp-content-font-family, system-ui, sans-serif);
  font-size: 13px; line-height: 1.4; color: var(--se-text); font-variant-numeric: tabular-nums;
}
.spliteasy b { font-weight: 600; }
.spliteasy code { font-family: var(--jp-code-font-family, monospace); font-size: 12px; background: none;
  color: inherit; padding: 0; }
.spliteasy .se-a { --se-own: var(--se-a); } .spliteasy .se-b { --se-own: var(--se-b); }
.spliteasy .se-c { --se-own: var(--se-c); }
.spliteasy .se-dim { color: var(--se-dim); }
.spliteasy .se-chip { display: inline-block; width: 11px; height: 11px; border-radius: 3px; background: var(--se-own);
  margin-right: 6px; vertical-align: -1px; }

.spliteasy .se-title { font-size: 15px; font-weight: 600; margin: 2px 0 4px; }
.spliteasy .se-legend { display: flex; flex-wrap: wrap; gap: 2px 22px; margin-bottom: 2px; }
.spliteasy .se-picture { position: relative; padding: 0 var(--se-margin) 0 var(--se-gutter); }
.spliteasy .se-flags { position: relative; height: 50px; }
.spliteasy .se-flag { position: absolute; white-space: nowrap; background: var(--se-panel); color: var(--se-text);
  border: 1px solid var(--se-ink); border-radius: 4px; padding: 0 7px; line-height: 20px; font-size: 12.5px;
  z-index: 2;
  max-width: 62%; overflow: hidden; text-overflow: ellipsis; }
.spliteasy .se-plot { position: relative; height: 230px; border-bottom: 1px solid var(--se-dim); }
.spliteasy .se-plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible;
  display: block; }
.spliteasy .se-pole { position: absolute; bottom: -4px; width: 0; border-left: 1px dashed var(--se-ink);
  transform: translateX(-0.5px); pointer-events: none; z-index: 1; }
.spliteasy .se-tick { position: absolute; right: calc(100% + 8px); transform: translateY(50%); white-space: nowrap;
  font-size: 11.5px; color: var(--se-dim); }
.spliteasy .se-xlabel { text-align: right; font-size: 11.5px; color: var(--se-dim); }
.spliteasy .se-ylabel { position: absolute; left: 0; top: 22px; font-size: 11.5px; color: var(--se-dim); }
.spliteasy .se-grid { stroke: var(--se-line); stroke-width: 1px; vector-effect: non-scaling-stroke; }
.spliteasy .se-bar .se-full { fill: var(--se-own); fill: color-mix(in srgb, var(--se-own) 66%, var(--se-panel));
  shape-rendering: crispEdges; }
.spliteasy .se-bar .se-hit { fill: var(--se-own); opacity: 0; }
.spliteasy .se-bar:hover .se-full { fill: var(--se-own); }
.spliteasy .se-bar:hover .se-hit { opacity: 0.14; }
.spliteasy .se-bar.se-cut .se-full, .spliteasy .se-bar.se-cut:hover .se-full { fill: var(--se-ink); }
.spliteasy .se-band { display: flex; height: 18px; margin-top: 3px; }
.spliteasy .se-band > span { background: var(--se-own); color: #fff; font-size: 11.5px; line-height: 18px;
  font-weight: 600;
  text-align: center; overflow: hidden; white-space: nowrap; min-width: 0; box-sizing: border-box;
  border-right: 2px solid var(--se-panel); }
.spliteasy .se-band > span:last-child { border-right: 0; }
.spliteasy .se-stages { display: flex; height: 18px; }
.spliteasy .se-stages > span { font-size: 11.5px; color: var(--se-dim); text-align: center; overflow: hidden;
  min-width: 0;
  white-space: nowrap; text-overflow: ellipsis; box-sizing: border-box; border-left: 1px solid var(--se-line);
  line-height: 18px; }
.spliteasy .se-stages > span.se-thin { text-overflow: clip; color: transparent; }

.spliteasy .se-facts { display: flex; flex-wrap: wrap; gap: 14px 34px; margin: 6px 0; align-items: flex-start; }
.spliteasy .se-facts > div { flex: 1 1 440px; min-width: 0; }
.spliteasy .se-sum { background: var(--se-soft); border-left: 4px solid var(--se-ink); padding: 6px 10px;
  margin: 6px 0;
  overflow-wrap: anywhere; }
.spliteasy .se-sum .se-product { font-size: 14px; }
.spliteasy .se-term { white-space: nowrap; }
.spliteasy .se-times { margin: 4px 0 6px; }
.spliteasy .se-time { display: flex; align-items: center; gap: 10px; margin: 3px 0; }
.spliteasy .se-time > .se-dim:first-child { width: 84px; flex: none; }
.spliteasy .se-time > b { width: 88px; flex: none; }
.spliteasy .se-strip { flex: 1 1 auto; min-width: 0; display: flex; height: 20px; border-radius: 3px;
  overflow: hidden; }
.spliteasy .se-strip > span { background: var(--se-own); box-sizing: border-box;
  border-right: 1px solid var(--se-panel); }
.spliteasy .se-strip > span:last-child { border-right: 0; }
.spliteasy .se-untold { font-style: italic; }
.spliteasy table.se-tight th, .spliteasy table.se-tight td { padding: 2px 5px; }
.spliteasy .se-curve { position: relative; height: 110px; margin: 4px 0 4px 44px;
  border-left: 1px solid var(--se-line); border-bottom: 1px solid var(--se-line); }
.spliteasy .se-curve > span { position: absolute; right: calc(100% + 6px); top: -4px; white-space: nowrap;
  font-size: 11.5px; color: var(--se-dim); }
.spliteasy .se-curve > span + span { top: auto; bottom: -4px; }
.spliteasy .se-curve svg { width: 100%; height: 100%; display: block; overflow: visible; }
.spliteasy .se-curve polyline { fill: none; stroke: var(--se-a); stroke-width: 2.5px; stroke-linejoin: round;
  stroke-linecap: round; vector-effect: non-scaling-stroke; }
.spliteasy .se-curve polyline.se-single { stroke: var(--se-ink); stroke-width: 1.6px; }
.spliteasy .se-curve polyline.se-double { stroke: var(--se-ink); stroke-width: 1.6px; stroke-dasharray: 5 3; }
.spliteasy .se-curve polyline.se-is { stroke: var(--se-b); stroke-width: 13px; }
.spliteasy .se-curve polyline.se-was { stroke: var(--se-dim); stroke-width: 8px; }
.spliteasy .se-ends { display: flex; justify-content: space-between; margin-left: 44px; font-size: 11.5px; }
.spliteasy .se-best { margin: 4px 0; }
.spliteasy .se-message { display: flex; align-items: center; gap: 10px; margin: 5px 0; }
.spliteasy .se-message > code { width: 122px; flex: none; }
.spliteasy .se-message > span:last-child { white-space: nowrap; width: 140px; flex: none; }
.spliteasy .se-track { position: relative; flex: 1 1 60px; height: 14px; min-width: 40px; }
.spliteasy .se-track > span { position: absolute; left: 0; top: 0; height: 100%; border-radius: 2px;
  background: var(--se-own); }
.spliteasy .se-track > .se-rest { background: var(--se-line); }
.spliteasy pre.se-code { background: var(--se-soft); padding: 8px 12px; overflow-x: auto; user-select: all;
  font-family: var(--jp-code-font-family, monospace); font-size: 12px; line-height: 1.45; margin: 2px 0; }
.spliteasy h4 { font-size: 13px; font-weight: 600; margin: 4px 0; color: var(--se-text); }
.spliteasy table { border-collapse: collapse; width: 100%; margin: 0; font-size: 13px; color: var(--se-text);
  border: 0; table-layout: auto; }
.spliteasy table th, .spliteasy table td { text-align: right; padding: 3px 8px; border: 0; white-space: nowrap;
  background: none; vertical-align: baseline; max-width: none; }
.spliteasy table th { color: var(--se-dim); font-weight: 500; border-bottom: 1px solid var(--se-line); }
.spliteasy table th:first-child, .spliteasy table td:first-child { text-align: left; padding-left: 0; }
.spliteasy table td.se-left, .spliteasy table th.se-left { text-align: left; }
.spliteasy table tr { background: none; }
.spliteasy table tr.se-total td { border-top: 1px solid var(--se-line); font-weight: 600; }
.spliteasy table tr.se-new td { background: var(--se-soft); }
.spliteasy .se-scroll { overflow-x: auto; }
.spliteasy .se-split { display: flex; height: 16px; border-radius: 3px; overflow: hidden; margin: 1px 0 7px; }
.spliteasy .se-split > span { background: var(--se-own); }
.spliteasy .se-note { font-size: 12px; color: var(--se-dim); margin: 4px 0; }
.spliteasy .se-problem { border-left: 4px solid var(--jp-error-color1, #d32f2f); background: var(--se-soft);
  padding: 6px 10px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; }
.spliteasy .se-told { line-height: 28px; padding-left: 8px; color: var(--se-dim); }
.spliteasy .se-done { height: 8px; border-radius: 4px; background: var(--se-soft); overflow: hidden; width: 190px;
  display: inline-block; vertical-align: 1px; margin-right: 8px; }
.spliteasy .se-done > span { display: block; height: 100%; background: var(--se-a); }
"""
)
"""For every piece of HTML of the explorer; each piece is inside an element of class ``spliteasy``."""

CONTROLS = """
.spliteasy-explorer { overflow: hidden; max-width: 1180px; }
.spliteasy-explorer .jupyter-widgets { flex-shrink: 0; }
.spliteasy-explorer .widget-html { margin: 2px 0; max-width: 100%; }
.spliteasy-explorer .widget-html-content { flex: 1 1 auto; min-width: 0; }
.spliteasy-explorer:not(:has(.se-busy)) .se-stop { opacity: 0.45; }
.spliteasy-explorer .widget-toggle-buttons { display: flex; flex: 0 0 auto; width: max-content; margin: 2px;
  line-height: 28px; }
.spliteasy-explorer .widget-toggle-buttons .widget-label { flex-shrink: 0; text-align: right; margin-right: 8px; }
.spliteasy-explorer .se-sides { align-items: flex-start; }
.spliteasy-explorer .se-left-side { flex: 5 1 520px; min-width: 0; overflow: visible; }
.spliteasy-explorer .se-right-side { flex: 1 1 258px; min-width: 0; margin-left: 14px; }
.spliteasy-explorer .se-chains { display: grid; max-width: 840px; gap: 0 12px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); }
.spliteasy-explorer .se-chains > * { width: auto; }
.spliteasy-explorer .se-scissors { width: auto; height: 22px; overflow: visible; }
.spliteasy-explorer .se-scissors .slider-container { overflow: visible; padding: 0; margin: 0; border: 0; }
.spliteasy-explorer .se-scissors .noUi-target { margin: 0; border: 0; height: 22px; background: none; box-shadow: none;
}
.spliteasy-explorer .se-scissors .noUi-connects { display: none; }
.spliteasy-explorer .se-scissors .noUi-handle { width: 24px; height: 24px; top: -1px; right: -12px; border-radius: 50%;
  border: 2px solid var(--jp-content-font-color0, #111); background: var(--jp-layout-color1, #fff);
  box-shadow: none; cursor: ew-resize; }
.spliteasy-explorer .se-scissors .noUi-handle::before { content: "✂"; display: block; position: static; width: auto;
  height: auto; background: none; color: var(--jp-content-font-color0, #111); font-size: 14px; line-height: 20px;
  text-align: center; transform: rotate(-90deg); }
.spliteasy-explorer .se-scissors .noUi-handle::after { display: none; }
.spliteasy-explorer .se-scissors .noUi-handle:hover, .spliteasy-explorer .se-scissors .noUi-handle:focus {
  background: var(--jp-brand-color3, #bbdefb); outline: 2px solid var(--jp-brand-color1, #1976d2); }
"""
"""For the widgets themselves, by ipywidgets' own class names."""
