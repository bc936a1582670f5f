"""From templates to pages that need nothing else, and run nothing but what they bring."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from posterior_collapse.report.names import GREEK

__all__ = ["FORECAST", "TRAINED", "json_in_html", "number", "render", "scripts", "symbols", "text"]

FORECAST = ("style.css",)
TRAINED = ("style.css", "trained.css")
"""How the pages look: those of trained models have more on them."""


def number(value: float) -> str:
    """Return a number to three digits, as the page's script has it.

    Example:
        >>> [number(v) for v in (0.12345, 1734.0, 1.23e-9, math.inf, math.nan)]
        ['0.123', '1730', '1.23e-9', 'always', '?']
    """
    if math.isnan(value):
        return "?"
    if math.isinf(value):
        return "always"
    rounded = float(f"{value:.3g}")
    if rounded == 0 or 1e-6 <= abs(rounded) < 1e7:
        return np.format_float_positional(rounded, trim="-")
    return f"{rounded:g}".replace("e-0", "e-").replace("e+0", "e+")


def render(
    template: str, script: str | None = None, styles: Sequence[str] = TRAINED, **values: Any
) -> str:
    """Return a template of this folder with its values, all of which are escaped but the script.

    Args:
        template: Its file.
        script: What may run; None: nothing.
        styles: Files that say how it looks.
        values: What the template names.
    """
    style = "".join(map(text, styles))
    found = _environment().get_template(template)
    return str(found.render(policy=_policy(style, script), style=style, script=script, **values))


def _policy(style: str, script: str | None) -> str:
    """A content security policy: nothing but these two, and pictures in the page itself."""
    runs = "'none'" if script is None else _hash(script)
    return (
        f"default-src 'none'; script-src {runs}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def symbols(words: str) -> Any:
    """Return words with the indices of Greek letters set low; everything else is escaped.

    Example:
        >>> print(symbols("η_dec < 1, eta_dec"))
        η<sub>dec</sub> &lt; 1, eta_dec
    """
    from markupsafe import Markup, escape

    return Markup(GREEK.sub(r"\1<sub>\2</sub>", str(escape(words))))  # escaped before


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("posterior_collapse.report", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["number"] = number
    environment.filters["symbols"] = symbols
    return environment


def scripts(*names: str) -> str:
    """Return files of `scripts` as one script that leaves no names behind.

    Example:
        >>> scripts("filter.js").startswith('"use strict";')
        True
    """
    return '"use strict";\n' + "".join(f"{{\n{text(f'scripts/{name}')}}}\n" for name in names)


@cache
def text(name: str) -> str:
    """Return a file of this folder."""
    return (files("posterior_collapse.report.pages") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def json_in_html(values: Any) -> str:
    """Return strict JSON that no HTML parser takes for the end of its script."""
    found = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return found.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
