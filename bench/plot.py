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
COLOURS = {"postern": "#1f6f54", "nginx": "#7a8794", "haproxy": "#b0b8c0", "nghttpx": "#93a4b8", "squid": "#c9b28f", "mitmproxy": "#d9a5a0"}
WIDTH, LEFT, BAR, GAP, HEAD = 860, 330, 14, 3, 22


def text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">{html.escape(words)}</text>'


def picture(body: list[str], height: float, title: str) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" font-family="sans-serif" fill="#222">\n'
            f'<title>{html.escape(title)}</title>\n<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n")


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
    most = 2.0  # longer bars are cut, and say so
    scale = (WIDTH - LEFT - 90) / most
    body, y = [text(10, 24, "Cost beside the base of each scenario (shorter is better)", weight="bold", size=15)], 44.0
    for results in scenarios.values():
        shown = [r for r in results if ratio_of(r) is not None and r["contender"].split(",")[0] in COLOURS and r["base"] in COLOURS]
        if len(shown) < 2:
            continue
        body.append(text(10, y + 12, results[0]["title"], weight="bold", size=12))
        y += HEAD
        for result in shown:
            ratio = ratio_of(result)
            length = min(ratio, most) * scale
            body.append(text(LEFT - 8, y + BAR - 3, result["contender"], "end"))
            body.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{max(length, 1):.1f}" height="{BAR}" fill="{COLOURS[result["contender"].split(",")[0]]}"/>')
            value = f"{result['median']:.1f}" if result["median"] >= 10 else f"{result['median']:.2f}"
            body.append(text(LEFT + length + 5, y + BAR - 3, f"{ratio:.2f}{' →' if ratio > most else ''}  ({value} {result['unit'].split()[0]})", size=11))
            y += BAR + GAP
        y += 8
    line = LEFT + scale
    body.append(f'<line x1="{line:.1f}" x2="{line:.1f}" y1="40" y2="{y:.1f}" stroke="#444" stroke-dasharray="3 3"/>')
    return picture(body, y + 10, "Cost of each proxy beside the base of each scenario")


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
    top = max(value for points in series.values() for _, value in points) * 1.3
    place = lambda count, value: (70 + (len(str(count)) - 1) * 150, 300 - value / top * 240)
    body = [text(10, 24, "CPU per small request with more and more rules (µs)", weight="bold", size=15)]
    for step in range(5):
        y = 300 - step * 60
        body.append(f'<line x1="60" x2="760" y1="{y}" y2="{y}" stroke="#ddd"/>')
        body.append(text(54, y + 4, f"{top * step / 4:.0f}", "end", size=11))
    for (name, points), colour, dash in zip(series.items(), ("#1f6f54", "#b3562d"), ("", "6 4")):
        points = sorted(points)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
        for point in points:
            x, y = place(*point)
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
        x, y = place(*points[-1])
        body.append(text(x + 10, y + (4 if name == "hosts" else 18), f"on as many {name}" if name == "hosts" else "on one host, by path", size=12))
    for count in sorted({count for points in series.values() for count, _ in points}):
        body.append(text(place(count, 0)[0], 320, f"{count:,}", "middle", size=11))
    body.append(text(400, 342, "rules", "middle"))
    return picture(body, 356, "CPU per request by number of rules")


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
