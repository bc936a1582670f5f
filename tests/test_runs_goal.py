"""What `tune` is asked for."""

import pytest

import posterior_collapse as pc
from posterior_collapse.runs.goal import Goal


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (pc.VAESpec(3, sigma=(0.5, 0.4, 0.3)), "sigma"),
        (pc.HVAESpec((4, 2), sigma_2=(0.5, 0.4)), "sigma_2"),
    ],
)
def test_units_of_their_own_sigma_are_not_counted_out(spec: pc.Spec, name: str) -> None:
    """It was about a spec of other units, which nobody had passed."""
    with pytest.raises(pc.InvalidArgumentError) as caught:
        Goal(spec, "latents")
    assert str(caught.value) == (
        f"{name}: got {spec.dims[-1]} values, one per unit; expected one for all with "
        f"tune='latents', which changes how many units there are. Give the spec {name}='learned' "
        "or a number."
    )
    assert Goal(spec, "beta").units == spec.dims[-1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        # Up to 1 it relays noise, and "less than 1" was said to be enough.
        (pc.HVAESpec((4, 2), (1.0, 0.9)), "less than 0.699, above which no unit is active"),
        (pc.HVAESpec((4, 2), (1.0, 2.0), sigma_1="learned"), "a z2 of which some beta keeps a"),
    ],
)
def test_a_level_that_only_relays_noise_is_asked_for_a_beta_that_it_lives_at(spec, words) -> None:
    x = pc.load("digits").x
    with pytest.raises(pc.InvalidArgumentError, match=words):
        pc.tune(x, spec, tune="latents")
    if spec.sigma_1 != "learned":
        kept = [pc.forecast(x, spec.with_level("beta", 2, b)).n_active for b in (0.698, 0.7)]
        assert kept == [1, 0]
