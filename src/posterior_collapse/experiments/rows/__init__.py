"""The rows of arXiv:2306.05023 (Dang et al., ICLR 2024), and what goes beyond them.

Names are those of the README of the published code; facts on its scripts come from their behaviour.
"""

from posterior_collapse.errors import InvalidArgumentError, nearest
from posterior_collapse.experiments.grids import Row
from posterior_collapse.experiments.rows import hierarchical, one_level, trust

PARTS = "abcdefg"
"""Letters of the rows of one study, which is named without them."""

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (*one_level.ROWS, *hierarchical.ROWS, *trust.ROWS),
        key=lambda row: (row.id[0], int(row.id[1:].rstrip(PARTS)), row.id),
    )
)
"""All rows, the paper's in its order first."""


def chosen(name: str) -> tuple[Row, ...]:
    """Return the rows that a name stands for: `all`, an id such as `E1`, or `X3` for X3a to X3g.

    Example:
        >>> [row.name for row in chosen("e7")]
        ['Linear CVAE sweep']
    """
    if name.lower() == "all":
        return ROWS
    found = tuple(row for row in ROWS if name.lower() in (row.id.lower(), _study(row)))
    if not found:
        ids = list(dict.fromkeys(name for row in ROWS for name in (_study(row).upper(), row.id)))
        raise InvalidArgumentError(
            "row",
            repr(name),
            f"'all' or one of {', '.join(ids)}",
            f"See collapse reproduce --list.{nearest(name.upper(), ids)}",
        )
    return found


def _study(row: Row) -> str:
    return row.id.lower().rstrip(PARTS)
