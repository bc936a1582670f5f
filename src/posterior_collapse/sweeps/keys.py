"""What the key of a run hashes: fixed, so that runs kept by earlier versions are found again.

Every entry that runs were described by when keys were first made is hashed, whatever its value.
Entries that a later version adds are hashed only where they differ from their default: a run that
leaves them alone keeps its key. So such a default has to mean "as before there was this entry", and
must never change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from posterior_collapse.models import ARCHITECTURES

if TYPE_CHECKING:
    from posterior_collapse.sweeps.runs import Run

__all__ = ["hashed"]

INCIDENTAL = ("device", "checkpoint_every", "checkpoint_steps")
"""Settings that say where and how often, not what is trained."""
_VAE = "model latent_dim beta eta_dec eta_enc sigma"
_START = "initial_std initial_sigma initial_eta_dec"
_NETWORK = f"name hidden activation dropout latent output std_head {_START}"
ALWAYS = {
    kind: frozenset(names.split())
    for kind, names in {
        "run": "data spec architecture settings method evaluation",
        "data": "name task label rows size",
        "settings": "epochs steps batch_size optimiser learning_rate momentum clip convention "
        "warm_up cycles free_bits capacity capacity_warm_up patience precision seed order_seed",
        "evaluation": "split rows samples likelihood_rows panel matrices",
        "vae": _VAE,
        "cvae": _VAE,
        "hvae": "model latent_dims betas eta_dec eta_enc sigma_1 sigma_2",
        "chain": "model latent_dims betas eta_decs eta_enc sigmas",
        "linear": f"name bias {_START}",
        "mlp": f"{_NETWORK} input_dropout",
        "cnn": f"{_NETWORK} channels",
        "vae-relu": f"name hidden {_START}",
        "cvae-relu": f"name hidden input_dropout {_START}",
        "cvae-linear-net": f"name hidden input_dropout {_START}",
        "cvae-cnn": f"name {_START}",
        "hvae-relu": f"name hidden {_START}",
        "hvae-cnn": f"name hidden {_START}",
    }.items()
}
"""What is hashed whatever its value, by part of a run, model or architecture. Never add to an
entry; a model or an architecture that is not named here has none."""


def hashed(run: Run) -> dict[str, Any]:
    """Return of a run's `to_dict` what its key hashes."""
    values = run.to_dict()
    for name in INCIDENTAL:
        del values["settings"][name]
    preset = ARCHITECTURES[run.architecture.name].defaults
    values["data"] = _part("data", values["data"], _defaults(run.data))
    values["spec"] = _part(run.spec.model, values["spec"], _defaults(run.spec))
    values["architecture"] = _part(
        run.architecture.name, values["architecture"], {**_defaults(run.architecture), **preset}
    )
    values["settings"] = _part("settings", values["settings"], _defaults(run.settings))
    values["evaluation"] = _part("evaluation", values["evaluation"], _defaults(run.evaluation))
    return _part("run", values, _defaults(run))


def _part(kind: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    always = ALWAYS.get(kind, frozenset())
    return {
        name: value
        for name, value in values.items()
        if name in always or name not in defaults or _plain(value) != _plain(defaults[name])
    }


def _defaults(part: Any) -> dict[str, Any]:
    return {
        field.name: field.default
        for field in dataclasses.fields(part)
        if field.default is not dataclasses.MISSING
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
