"""Hyperparameters as the field writes them: β, η_dec, σ."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from posterior_collapse.errors import of_level

if TYPE_CHECKING:
    from posterior_collapse.theory import Forecast, PhaseDiagram

GREEK = re.compile(r"([βηεσ])_([a-z]+)")
"""A letter with the words below it."""
SYMBOLS = {
    "beta": "β", "eta": "η", "sigma": "σ", "epsilon": "ε", "eps": "ε", "delta": "δ", "Sigma": "Σ",
}  # fmt: skip
WORDS = {
    "latent_dim": "latent units",
    "latent_dims": "latent units",
    "learning_rate": "learning rate",
    "eta_decs": "η_dec",
}
DIGITS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def symbol(name: str) -> str:
    """Return a hyperparameter as a page shows it.

    Example:
        >>> [symbol(name) for name in ("beta_2", "eta_dec", "eta_dec_2", "latent_dim_2", "seed")]
        ['β₂', 'η_dec', 'η_dec₂', 'latent units of z2', 'seed']
    """
    if name in WORDS:
        return WORDS[name]
    if name.startswith("latent_dim_"):
        return f"latent units of z{name.removeprefix('latent_dim_')}"
    head, _, index = name.partition("_")
    if head not in SYMBOLS:
        return name.replace("_", " ")
    word, _, number = index.rpartition("_")
    if number.isdigit() and (not word or word.isalpha()):
        return SYMBOLS[head] + f"_{word}" * bool(word) + number.translate(DIGITS)
    return SYMBOLS[head] + (f"_{index}" if index else "")


def label(name: str) -> str:
    """Return a hyperparameter as a figure's axis shows it, its index set low.

    Example:
        >>> label("eta_dec").startswith("η$"), label("beta_1"), label("seed")
        (True, 'β₁', 'seed')
    """
    return typeset(symbol(name))


def typeset(words: str) -> str:
    r"""Return words as matplotlib draws them: indices of Greek letters low, and no other formula.

    Example:
        >>> print(typeset("η_dec = 1, a_b costs $2"))
        η$_\mathrm{dec}$ = 1, a_b costs \$2
    """
    return GREEK.sub(r"\1$_\\mathrm{\2}$", words.replace("$", r"\$"))


def value(of: Any) -> str:
    """Return a number in short, and words as they are."""
    number = isinstance(of, (int, float)) and not isinstance(of, bool)
    return f"{of:g}" if number else "none" if of is None else str(of)


def named(values: Mapping[str, Any]) -> str:
    """Return hyperparameters with their values, but those that only other models have.

    Example:
        >>> named({"beta": 0.5, "sigma": "shared", "beta_2": None, "clip": None})
        'β = 0.5, σ = shared, clip = none'
    """
    own = {name: of for name, of in values.items() if of is not None or name == "clip"}
    return ", ".join(f"{symbol(name)} = {value(of)}" for name, of in own.items())


def settings(spec: Any, varying: Collection[str] = ()) -> str:
    """Return the hyperparameters of a spec in a line.

    Args:
        spec: Of any model.
        varying: Those that have no single value here: "eta_dec", and "beta" or e.g. "beta_2".

    Example:
        >>> from posterior_collapse import HVAESpec, VAESpec
        >>> settings(VAESpec(16, eta_dec=0.3))
        'VAE, 16 latent units, β = 1, η_dec = 0.3'
        >>> settings(HVAESpec((5, 3), (1.0, 2.0), sigma_1=0.5))
        'HVAE, 5 and 3 latent units, β = 1 and 2, η_dec = 1, σ₁ = 0.5'
        >>> settings(HVAESpec((5, 3), (1.0, 2.0)), {"beta_2", "eta_dec"})
        'HVAE, 5 and 3 latent units, β₁ = 1, σ₁ = 1'
    """
    gaussian, several = spec.likelihood == "gaussian", len(spec.dims) > 1
    parts = [
        spec.model.upper() + ("" if gaussian else f" ({spec.likelihood})"),
        f"{_listed(spec.dims)} latent unit{'s' * (spec.dims != (1,))}",
    ]
    levels = enumerate(spec.beta_levels, 1)
    betas = {f"beta_{number}" if several else "beta": beta for number, beta in levels}
    fixed = {name: beta for name, beta in betas.items() if name not in varying}
    parts += [f"β = {_listed(betas.values())}"] if fixed == betas else [named(fixed)] * bool(fixed)
    if gaussian and "eta_dec" not in varying:
        etas = spec.eta_levels if spec.model == "chain" else [*dict.fromkeys(spec.eta_levels)]
        learned = "learned" in etas and len(etas) == 1
        parts.append("η_dec learned" if learned else f"η_dec = {_listed(etas)}")
    parts += [f"η_enc = {value(spec.eta_enc)}"] * (spec.eta_enc != 1)
    for number, sigma in enumerate(spec.sigma_levels, 1):
        if sigma != "learned":
            index = str(number).translate(DIGITS) if several else ""
            how = sigma if isinstance(sigma, str) else "one per unit"
            parts.append(f"σ{index} {f'= {sigma:g}' if isinstance(sigma, (int, float)) else how}")
    return ", ".join(parts)


def _listed(values: Iterable[Any]) -> str:
    return " and ".join(map(value, values))


def theory(spec: Any) -> str:
    """Return what a forecast's counts of active units are those of.

    Example:
        >>> from posterior_collapse import VAESpec
        >>> theory(VAESpec(2)), theory(VAESpec(2, likelihood="poisson"))
        ('linear optimum', 'quadratic approximation')
    """
    return "linear optimum" if spec.likelihood == "gaussian" else "quadratic approximation"


def beta_name(found: PhaseDiagram) -> str:
    """Return the hyperparameter of the rows: "beta", or in a hierarchy e.g. "beta_2"."""
    return f"beta_{found.level + 1}" if len(found.spec.dims) > 1 else "beta"


def counted(found: PhaseDiagram) -> str:
    """Return whose units are counted."""
    return f"active units{of_level(found.level + 1, len(found.spec.dims))}"


def fixed(found: PhaseDiagram) -> str:
    """Return the hyperparameters that are the same in all cells.

    Example:
        >>> import posterior_collapse as pc
        >>> m = pc.Moments.from_matrices([[4.0, 0.0], [0.0, 1.0]])
        >>> fixed(pc.phase_diagram(m, pc.VAESpec(2), [0.5, 2.0, 5.0]))
        'VAE, 2 latent units, η_dec = 1'
        >>> fixed(pc.phase_diagram(m, pc.VAESpec(2), [0.5, 2.0, 5.0], [1.0, 0.1]))
        'VAE, 2 latent units'
    """
    said = settings(found.spec, {beta_name(found), "eta_dec"})
    one = len(found.eta_decs) == 1 and found.spec.likelihood == "gaussian"
    return f"{said}, η_dec = {value(float(found.eta_decs[0]))}" if one else said


def whose_onset(forecast: Forecast) -> str:
    """Return of which networks an onset is, as a clause; nothing where of all.

    Example:
        >>> import posterior_collapse as pc
        >>> pair = pc.Moments.from_matrices([[1.0]], [[0.5]], [[1.0]])
        >>> whose_onset(pc.forecast(pair, pc.VAESpec(1)))
        ' whose encoder reads x linearly'
    """
    if forecast.spec.model == "cvae":
        return " that adds a part of z to a part linear in x"
    return " whose encoder reads x linearly" * forecast._modes.moments.paired
