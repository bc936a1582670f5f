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
