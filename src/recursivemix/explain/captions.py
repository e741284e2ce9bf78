"""Short texts under pictures."""

from __future__ import annotations

from recursivemix.report.cells import Part, columns_of

VISIBLE = 0.001
"""Least share of the pixels of a visible source: 1 pixel of 32x32, 50 of 224x224."""
COUNTED = 0.01
"""Least label weight of a source that counts as part of the label."""
LEAST_SHARE = 0.0005
"""Classes with a smaller share are not named."""
LINE_WIDTH = 32
"""Columns per line."""


def two_lines(names: list[tuple[str, str]]) -> list[str]:
    """Return as many names with their values as fit into two lines; the second may be empty."""
    lines = [""]
    for name, value in names:
        item = f"{name} {value}"
        longer = f"{lines[-1]}, {item}" if lines[-1] else item
        if not lines[-1] or columns_of(longer) <= LINE_WIDTH:
            lines[-1] = longer
        elif len(lines) == 1:
            lines = [f"{lines[0]},", item]
        else:
            return [lines[0], f"{lines[1]} …"]
    return [*lines, ""][:2]


def percent(share: float) -> str:
    """Return a share in percent, with one decimal below 10 %."""
    return f"{100 * share:.0f}%" if share >= 0.0995 or share == 0 else f"{100 * share:.1f}%"


def lam_line(lam: float, box: tuple[int, int, int, int] | None) -> str:
    """Return ``lam`` and the box as text."""
    return f"lam {lam:.3f}" if box is None else f"lam {lam:.3f}, box {' '.join(map(str, box))}"


def count_line(parts: list[Part]) -> str:
    """Return how many sources are visible, and how many count in the label."""
    visible = sum(part.pixels >= VISIBLE for part in parts)
    return f"{visible} visible, {sum(part.label >= COUNTED for part in parts)} in the label"
