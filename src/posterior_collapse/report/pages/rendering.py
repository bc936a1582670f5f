"""From templates to pages that need nothing else, and run nothing but what they bring."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from posterior_collapse.report.names import GREEK
from posterior_collapse.theory import ACTIVE_INFORMATION

FORECAST = ("style.css",)
TRAINED = ("style.css", "trained.css")
"""How the pages look: those of trained models have more on them."""

ICONS = {"active": "●", "noise": "■", "collapsed": "○", "diverged": "×"}
"""What tells statuses apart where colours do not."""
GLOSSARY = {
    "active": "The unit carries information on the data: its information on x is surely above "
    f"{ACTIVE_INFORMATION:g} nats.",
    "collapsed": "The unit's posterior is the prior, or almost, whatever the data: it carries "
    "no information on x that counts as active, and the decoder gets noise from it.",
    "noise": "The unit follows the noise that was injected at the level below, and carries no "
    "information on x.",
    "diverged": "The KL or the std of the unit's posterior has exploded.",
    "KL": "How far the posterior of a row is from the prior, averaged over the rows, in nats: what "
    "the loss pays for the unit. A nat is 1.44 bits.",
    "I(x;z)": "Mutual information: how much the unit tells about which row it was, in nats. The "
    "rest of its KL is spent on a shape that differs from the prior's.",
    "effect": "By how much the decoder's output changes when the unit is drawn anew from its "
    "prior.",
    "Var E[z|x]": "How much the unit's mean varies from row to row. Above 0.01 a unit is active in "
    "the sense of Burda et al. (2016).",
    "std": "Root mean square of the posterior's std: near the prior's where a unit has collapsed.",
    "t": "The certificate: the strongest signal that the decoder leaves unexplained, divided by "
    "what one more unit must exceed to pay, that is to lower the loss. At 1 and below none pays.",
    "q(z)": "The aggregate posterior: where a unit's z lies over all rows. Where it is not the "
    "prior, samples from the prior miss it.",
    "linear optimum": "The best that a linear model of the same size can do with these data and "
    "this loss, in closed form. Networks may do better, and keep other numbers of units.",
    "quadratic approximation": "What the closed forms give for a loss that is not Gaussian: "
    "right near the onset; below it a model may keep more units or fewer.",
    "data mode": "A direction along which the data vary, the strongest first: a principal "
    "component, in units of the noise that the loss tolerates.",
    "traversal": "The decoder's output as one unit goes through its range, two standard deviations "
    "to either side, while the others stay at their means.",
    "η_dec": "Standard deviation of a Gaussian decoder: the noise that the loss tolerates.",
    "β": "Weight of the KL in the loss.",
}
"""What the words of a page mean, for someone who reads them for the first time."""


def number(value: float) -> str:
    """Return a number to three digits, as the page's script has it.

    Example:
        >>> [number(v) for v in (0.12345, 1734.0, 1e-5, 1.23e6, math.inf, math.nan)]
        ['0.123', '1730', '1e-5', '1.23e+6', 'always', '?']
    """
    if math.isnan(value):
        return "?"
    if math.isinf(value):
        return "always"
    rounded = float(f"{value:.3g}") + 0.0  # 0, not -0
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e6:  # longer ones run out of an axis's margin
        return np.format_float_positional(rounded, trim="-")
    return f"{rounded:g}".replace("e-0", "e-").replace("e+0", "e+")


def render(
    template: str,
    *,
    notebook: bool = False,
    script: str = "",
    styles: Sequence[str] = TRAINED,
    **values: Any,
) -> str:
    """Return a template of this folder with its values, all of which are escaped but the script.

    Args:
        template: Its file.
        notebook: The part for a notebook, which has no script; else the page.
        script: What may run; "": what the pages of trained models share.
        styles: Files that say how it looks.
        **values: What the template names.
    """
    style, script = "".join(map(text, styles)), script or text("scripts/trained.js")
    # The content security policy: nothing but these two, and pictures in the page itself.
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    found = _environment().get_template(template)
    return str(found.render(notebook=notebook, policy=policy, style=style, script=script, **values))


def symbols(words: str) -> Markup:
    """Return words with the indices of Greek letters set low; everything else is escaped.

    Example:
        >>> print(symbols("η_dec < 1, eta_dec"))
        η<sub>dec</sub> &lt; 1, eta_dec
    """
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
    environment.globals |= {"icons": ICONS, "infinity": math.inf}
    return environment


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


def words(names: Iterable[str]) -> dict[str, str]:
    """Return what these words mean, in the order of the glossary.

    Example:
        >>> words(["KL", "β"]).keys()
        dict_keys(['KL', 'β'])
    """
    wanted = set(names)
    return {name: meaning for name, meaning in GLOSSARY.items() if name in wanted}
