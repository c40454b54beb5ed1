#!/usr/bin/env python3
"""Pictures of what bench/run.py measured, as SVG written by hand: no library is needed to make them or to look at them.

    bench/plot.py [build/bench/results.json ...] [--into docs/pictures]

Several files are several runs; of a scenario the last one counts. Makes performance-ratios.svg (every scenario, as a
ratio to its base) and performance-rules.svg (what a request costs with more and more rules).
"""

import argparse
import html
import json
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
PROXIES = ("postern", "nginx", "haproxy", "nghttpx", "squid", "mitmproxy")
WIDTH, LEFT, VALUES, BAR, GAP, HEAD = 920, 210, 770, 13, 4, 20
RATIO_MAX = 2.0  # longer bars are cut, and say so

# The colours and fonts of road.svg, in light and in dark.
STYLE = """<style>
    .page { fill: #ffffff } text { fill: #1f2328 } .faint { fill: #57606a } .title { font-weight: 600; font-size: 15px } .what { font-weight: 600 }
    .grid { stroke: #d0d7de } .base { stroke: #57606a; stroke-dasharray: 4 3 }
    .postern { fill: #1a7f37 } .nginx { fill: #8c959f } .haproxy { fill: #afb8c1 } .nghttpx { fill: #9fb0c8 } .squid { fill: #d4b483 } .mitmproxy { fill: #dba39d }
    .line1 { stroke: #1a7f37 } .line2 { stroke: #0969da } .dot1 { fill: #1a7f37 } .dot2 { fill: #0969da }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } text { fill: #e6edf3 } .faint { fill: #8b949e } .grid { stroke: #30363d } .base { stroke: #8b949e }
      .postern { fill: #3fb950 } .nginx { fill: #6e7681 } .haproxy { fill: #484f58 } .nghttpx { fill: #56657d } .squid { fill: #7d6a4a } .mitmproxy { fill: #85605c }
      .line1 { stroke: #3fb950 } .line2 { stroke: #58a6ff } .dot1 { fill: #3fb950 } .dot2 { fill: #58a6ff }
    }
  </style>"""


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{where}{of_kind}>{html.escape(words)}</text>'


def picture(body: list[str], height: float, title: str, description: str) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="title description"\n'
            "     font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"12\">\n"
            f'  <title id="title">{html.escape(title)}</title>\n  <desc id="description">{html.escape(description)}</desc>\n  {STYLE}\n'
            f'  <rect class="page" width="{WIDTH}" height="{height:.0f}"/>\n  ' + text(12, 24, title, kind="title") + "\n  " + "\n  ".join(body) + "\n</svg>\n")


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def proxy_of(result: dict) -> str:
    return result["contender"].split(",")[0]


def load(paths: list[pathlib.Path]) -> dict[str, list[dict]]:
    scenarios: dict[str, list[dict]] = {}
    for path in paths:
        fresh: dict[str, list[dict]] = {}
        for result in json.loads(path.read_text())["results"]:
            fresh.setdefault(result["scenario"], []).append(result)
        scenarios |= fresh
    return scenarios


def ratio_of(result: dict) -> float | None:
    if result["median"] is None:
        return None
    return 1.0 if result["contender"] == result["base"] else result["ratio"]


def ratios(scenarios: dict[str, list[dict]]) -> str:
    scale = (VALUES - LEFT) / RATIO_MAX
    bars, y = [], 44.0
    for results in scenarios.values():
        # Many rules have a picture of their own.
        shown = [r for r in results if ratio_of(r) is not None and r["contender"] in PROXIES and r["base"] in PROXIES]
        if len(shown) < 2 or results[0]["scenario"] == "rules":
            continue
        bars.append(text(12, y + 11, results[0]["title"], kind="what"))
        y += HEAD
        for result in shown:
            ratio = ratio_of(result)
            length = max(min(ratio, RATIO_MAX) * scale, 1)
            bars.append(text(LEFT - 8, y + BAR - 3, result["contender"], "end"))
            bars.append(f'<rect class="{proxy_of(result)}" x="{LEFT}" y="{y:.0f}" width="{length:.1f}" height="{BAR}"/>')
            if ratio > RATIO_MAX:
                bars.append(f'<path class="page" d="M{VALUES - 26},{y - 1:.0f} l6,0 l-6,{BAR + 2} l-6,0 z"/>')
            bars.append(text(VALUES + 44, y + BAR - 3, f"{ratio:.2f}", "end", "what" if result["contender"] == "postern" else ""))
            bars.append(text(VALUES + 54, y + BAR - 3, f"{figure(result['median'])} {result['unit'].split()[0]}", kind="faint"))
            y += BAR + GAP
        y += 8
    line = LEFT + scale
    base = f'<line class="base" x1="{line:.1f}" x2="{line:.1f}" y1="40" y2="{y:.0f}"/>'
    return picture([*bars, base], y + 8, "Cost of each proxy beside the base of each scenario (shorter is better)",
                   "Bars: the cost of each proxy as a ratio to the scenario's base, with the ratio and the figure beside it.")


def rules(scenarios: dict[str, list[dict]]) -> str | None:
    series: dict[str, list[tuple[int, float]]] = {"hosts": [], "paths": []}
    for result in scenarios.get("rules", []):
        if result["median"] is None:
            continue
        if found := re.match(r"postern, ([\d,]+) (hosts|paths)", result["contender"]):
            series[found[2]].append((int(found[1].replace(",", "")), result["median"]))
        elif result["contender"] == "postern":
            for points in series.values():
                points.append((1, result["median"]))
    if max((len(points) for points in series.values()), default=0) < 2:
        return None
    counts = sorted({count for points in series.values() for count, _ in points})
    step = next(step for step in (5, 10, 20, 50, 100, 1000) if max(value for points in series.values() for _, value in points) <= 4.5 * step)
    decades = max(len(str(counts[-1])) - 1, 1)
    place = lambda count, value: (70 + (len(str(count)) - 1) * 600 / decades, 280 - value / step * 48)
    body = []
    for line in range(6):
        y = 280 - line * 48
        body.append(f'<line class="grid" x1="60" x2="690" y1="{y}" y2="{y}"/>')
        body.append(text(52, y + 4, f"{line * step}", "end", "faint"))
    ends = {}
    for number, (name, points) in enumerate(series.items(), 1):
        points = sorted(points)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        dash = ' stroke-dasharray="6 4"' if number == 2 else ""
        body.append(f'<polyline class="line{number}" points="{path}" fill="none" stroke-width="2"{dash}/>')
        body += [f'<circle class="dot{number}" cx="{place(*point)[0]:.1f}" cy="{place(*point)[1]:.1f}" r="3.5"/>' for point in points]
        ends[name] = place(*points[-1])
    # The two lines end close to each other: their names stand apart in the same order.
    for offset, name in zip((-6, 14), sorted(ends, key=lambda name: ends[name][1])):
        words = "on as many hosts (solid)" if name == "hosts" else "on one host, by path (dashed)"
        body.append(text(702, sum(y for _, y in ends.values()) / len(ends) + offset, words))
    body += [text(place(count, 0)[0], 300, f"{count:,}", "middle", "faint") for count in counts]
    body.append(text(375, 322, "rules", "middle"))
    return picture(body, 334, "CPU of a small request with more and more rules, µs", "Two lines: CPU per request with rules on as many hosts, and with rules of one host.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes pictures of what was measured.")
    parser.add_argument("results", nargs="*", type=pathlib.Path, default=[HERE.parent / "build" / "bench" / "results.json"])
    parser.add_argument("--into", type=pathlib.Path, default=HERE.parent / "docs" / "pictures")
    options = parser.parse_args()
    scenarios = load(options.results)
    (options.into / "performance-ratios.svg").write_text(ratios(scenarios))
    if drawn := rules(scenarios):
        (options.into / "performance-rules.svg").write_text(drawn)


if __name__ == "__main__":
    main()
