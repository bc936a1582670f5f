"""How the numbers of a text are spelled: decimal points or commas, thousands, True and False."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

COMMA = re.compile(r"\s*[+-]?(?:[1-9]\d{0,2}(?:\.\d{3})+|\d*),(\d+)([eE][+-]?\d+)?\s*")
"""A number with a decimal comma, maybe with points too, and what stands behind the comma."""
THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?\s*")
"""A number with commas between its thousands, or what may be one."""
POINTS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?\s*")
"""A number with points between its thousands, or what may be one."""
TRUTHS = {"true": "1", "false": "0"}
"""As pandas writes indicators of categories; spreadsheets, R and polars differ in capitals."""


class Spelling(NamedTuple):
    """How cells are spelled.

    Attributes:
        plain: Gives the text of a cell as numbers are spelled; None where they are already.
        notes: What was decided and might have been otherwise.
    """

    plain: Callable[[str], str] | None
    notes: tuple[str, ...] = ()


def spelling(cells: Sequence[str], delimiter: str) -> Spelling:
    """Return how cells are spelled that a delimiter parts.

    Commas are decimal where numbers with one occur, and none with a decimal point. Where no
    semicolons part them, 1,234 is taken for no number: as well as 1.234 it may be a thousand.
    Between semicolons, where commas often are decimal, 1.234 may be one too. It is beside decimal
    commas, and beside a number with two points; else it is a decimal, and a note says so.

    Example:
        >>> spelling(["1,5", "2"], ";").notes, spelling(["1,5", "2.5"], ";").notes
        (('decimal commas',), ())
        >>> spelling(["1,5", "1.764"], ";").notes, spelling(["0.764", "1.764"], ";").notes
        (('decimal commas', 'points between thousands'), ())
    """
    found = [match for cell in cells if (match := COMMA.fullmatch(cell))]
    grouped = [cell.strip() for cell in cells if POINTS.fullmatch(cell)]
    between = delimiter == ";"
    unclear = [cell for cell in grouped if between and is_number(cell)]
    decimal = any(
        "." in cell and is_number(cell) and not (between and POINTS.fullmatch(cell))
        for cell in cells
    )
    commas = thousands = False
    if not decimal:
        commas = any(not THOUSANDS.fullmatch(match[0]) for match in found)
        commas |= between and bool(found) and not unclear
        thousands = commas or (between and any(not is_number(cell) for cell in grouped))
    notes = ["decimal commas"] if commas else []
    if thousands and grouped:
        notes.append("points between thousands")
    elif unclear and not decimal:
        notes.append(
            f"{unclear[0]} and the like taken for decimals (write them without points if they are "
            "thousands)"
        )
    plain = pointed if thousands else numbered if any(map(is_truth, cells)) else None
    return Spelling(plain, tuple(notes))


def pointed(cell: str) -> str:
    """Return a number with a decimal comma as one with a point, and True and False as 1 and 0.

    Example:
        >>> pointed("1,5"), pointed("1.234,5"), pointed("1.23"), pointed("7"), pointed("TRUE")
        ('1.5', '1234.5', "'1.23'", '7', '1')
    """
    if POINTS.fullmatch(cell):
        cell = cell.replace(".", "")
    return repr(cell) if "." in cell else numbered(cell).replace(",", ".")


def is_truth(cell: str) -> bool:
    """Return whether a cell is True or False.

    Example:
        >>> is_truth(" TRUE"), is_truth("1")
        (True, False)
    """
    return cell.strip().lower() in TRUTHS


def numbered(cell: str) -> str:
    """Return True and False as 1 and 0.

    Example:
        >>> numbered("True"), numbered(" false"), numbered("7")
        ('1', '0', '7')
    """
    return TRUTHS.get(cell.strip().lower(), cell)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number as Python spells it.

    Example:
        >>> is_number("1.5"), is_number("1,5")
        (True, False)
    """
    try:
        float(cell)
    except ValueError:
        return False
    return True
