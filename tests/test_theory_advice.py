"""What is advised where a number is learned."""

from __future__ import annotations

import numpy as np
import pytest

import posterior_collapse as pc


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (pc.VAESpec(5, 1.5, "learned"), ["eta_dec"]),
        (pc.VAESpec(5, 3.0, "learned", sigma="shared"), ["eta_dec"]),
        (pc.HVAESpec((5, 5), (1.0, 1.5), 0.3, sigma_1="learned"), ["sigma_1", "sigma_2"]),
        (pc.HVAESpec((5, 5), (1.0, 1.5), sigma_1="learned"), ["sigma_1", "sigma_2"]),
    ],
    ids=repr,
)
def test_what_is_learned_is_advised_to_be_fixed(spec, names) -> None:
    """That nothing alone was enough was said, where fixing what is learned is."""
    x = np.random.default_rng(3).standard_normal((400, 5)) * [3, 2, 1, 0.5, 0.4]
    f = pc.forecast(x, spec)
    wanted = 5 if spec.model == "vae" or spec.eta_dec < 1 else 2
    advice = f.advice(wanted)
    assert [change.parameter for change in advice.changes] == names
    for change in advice.changes:
        assert f"Fix {change.name} at {change.value:.12g} in place of learning it" in advice.text

        def kept(value, name=change.parameter):
            return pc.forecast(x, spec.replace(**{name: value})).n_active

        assert kept(change.value) == change.active >= wanted
        # The nearest of a scan to what it is now, but for what three digits round away.
        values = change.current * np.geomspace(1e-2, 1e2, 801)
        near = [v for v in values if kept(v) >= wanted]
        nearest = np.abs(np.log(np.array(near) / change.current)).min()
        assert abs(np.log(change.value / change.current)) < nearest + 0.011
