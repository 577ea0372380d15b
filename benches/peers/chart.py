"""Draws bars as SVG: `chart.py OUT.svg TITLE UNIT NAME=VALUE …`, the first of them in freshet's colour."""

import pathlib
import sys
from xml.sax.saxutils import escape

ROW, LEFT, WIDTH, TOP = 30, 260, 420, 44
OURS, OTHERS = "#1f77b4", "#b0b0b0"


def bar(number, name, value, greatest, unit):
    y, length = TOP + number * ROW, max(2, round(WIDTH * value / greatest))
    colour = OTHERS if number else OURS
    return (
        f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LEFT}" y="{y}" width="{length}" height="22" fill="{colour}"/>'
        f'<text x="{LEFT + length + 8}" y="{y + 16}">{value:g} {escape(unit)}</text>'
    )


def main(out, title, unit, *named):
    pairs = [(name, float(value)) for name, _, value in (each.rpartition("=") for each in named)]
    greatest = max(value for _, value in pairs)
    bars = "\n".join(bar(number, name, value, greatest, unit) for number, (name, value) in enumerate(pairs))
    width, height = LEFT + WIDTH + 130, TOP + len(pairs) * ROW + 10
    pathlib.Path(out).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n<text x="10" y="26" font-size="16">{escape(title)}</text>\n'
        f"{bars}\n</svg>\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
