"""What the words of a page mean, for someone who reads them for the first time."""

from __future__ import annotations

from collections.abc import Iterable

from posterior_collapse.theory import ACTIVE_INFORMATION

__all__ = ["GLOSSARY", "words"]

GLOSSARY = {
    "active": "The unit knows something of the data: its information on x is surely above "
    f"{ACTIVE_INFORMATION:g} nats.",
    "collapsed": "The unit's posterior is the prior, whatever the data, or all but: it says "
    "nothing of x that counts as active, and the decoder gets noise from it.",
    "noise": "The unit follows the noise that was injected at the level below, and knows nothing "
    "of x.",
    "diverged": "The posterior of the unit is beyond all that training aims at.",
    "KL": "How far the posterior of a row is from the prior, averaged over the rows, in nats: what "
    "the loss pays for the unit. A nat is 1.44 bits.",
    "I(x;z)": "Mutual information: how much the unit tells of which row it was, in nats. The rest "
    "of its KL is spent on a shape that differs from the prior's.",
    "effect": "By how much the decoder's output changes when the unit is drawn anew from its "
    "prior.",
    "Var E[z|x]": "How much the unit's mean varies from row to row. Above 0.01 a unit is active in "
    "the sense of Burda et al. (2016).",
    "std": "Root mean square of the posterior's std: near the prior's where a unit has collapsed.",
    "t": "The certificate: the strongest signal that the decoder leaves unexplained, over what one "
    "more unit must exceed to pay. At 1 and below no further unit pays.",
    "q(z)": "The aggregate posterior: where a unit's z lies over all rows. Where it is not the "
    "prior, samples from the prior miss it.",
    "linear optimum": "The best that a linear model of the same size does with these data and this "
    "loss, in closed form. Networks may do better, and keep other numbers of units.",
    "data mode": "A direction along which the data vary, the strongest first: a principal "
    "component, in the noise that the loss tolerates.",
    "traversal": "What the decoder makes of a unit that goes through its range, two standard "
    "deviations to either side, while the others stay at their means.",
    "η_dec": "Standard deviation of a Gaussian decoder: the noise that the loss tolerates.",
    "β": "Weight of the KL in the loss.",
}


def words(names: Iterable[str]) -> dict[str, str]:
    """Return what these words mean, in the order of the glossary.

    Example:
        >>> words(["KL", "β"]).keys()
        dict_keys(['KL', 'β'])
    """
    wanted = set(names)
    return {name: meaning for name, meaning in GLOSSARY.items() if name in wanted}
