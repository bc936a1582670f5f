"""What runs that are kept know of their columns, and what those of earlier versions did not."""

import json
from pathlib import Path

import numpy as np
import pytest

import posterior_collapse as pc
from posterior_collapse.data import Dataset
from posterior_collapse.errors import DataError
from posterior_collapse.files import as_read, digest
from posterior_collapse.models import Architecture
from posterior_collapse.runs import folder as folders
from posterior_collapse.runs.kept import members, swept
from posterior_collapse.runs.run import RunData, asked
from posterior_collapse.runs.store import Store
from posterior_collapse.training import Settings

NAMES = ("age", "income", "height")
X = np.random.default_rng(0).standard_normal((40, 3)) * [3, 2, 1]
DATA = Dataset("people", X, names=NAMES)
TURNED = Dataset("people", X[:, [1, 0, 2]], names=("income", "age", "height"))
SPEC = pc.VAESpec(2, eta_dec=0.5)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    pc.sweep([SPEC], DATA, "linear", folder=tmp_path / "runs", epochs=2)
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    return run


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    rows = "\n".join(",".join(map(str, row)) for row in X)
    (tmp_path / "people.csv").write_text(f"{','.join(NAMES)}\n{rows}\n")
    settings = Settings(epochs=2)
    data = RunData(str(tmp_path / "people.csv"), split="train")
    runs = asked(data, Architecture.named("linear"), settings, {"": (SPEC, {})})
    folders.train(runs, folders.load(runs), tmp_path / "run", resume=False, report=lambda now: None)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["one", "trained"])
def test_pages_of_a_kept_run_call_features_by_their_names(kind, request, tmp_path) -> None:
    """Data without names were told of as features 1, 2, 3; columns in another order were taken."""
    folder = request.getfixturevalue(kind)
    np.save(tmp_path / "others.npy", X[::-1])
    _, found = members(folder, {"name": str(tmp_path / "others.npy")})[""].diagnosed()
    assert found._about.features == NAMES == found._shown.names
    found.to_html(tmp_path / "page.html")
    assert "income" in (tmp_path / "page.html").read_text()
    rows = "\n".join(",".join(map(str, row)) for row in TURNED.x)
    (tmp_path / "turned.csv").write_text(f"{','.join(TURNED.names)}\n{rows}\n")
    with pytest.raises(DataError, match="column 'income' in place 1; expected 'age' there"):
        members(folder, {"name": str(tmp_path / "turned.csv")})[""].diagnosed()


def test_a_record_of_a_sweep_is_diagnosed_likewise(one) -> None:
    record = Store(one.parent).get(one.name)
    assert record.columns == (NAMES,)
    assert pc.diagnose(record, X)._about.features == NAMES
    with pytest.raises(DataError, match="column 'income' in place 1"):
        pc.diagnose(record, TURNED)


def test_runs_of_earlier_versions_have_no_names_and_the_same_key(one, trained, tmp_path) -> None:
    values = json.loads((one / "run.json").read_text())
    del values["origin"]["columns"], values["sha256"]
    (one / "run.json").write_text(json.dumps({**values, "sha256": digest(as_read(values))}))
    record = Store(one.parent).get(one.name)
    assert (record.columns, record.run.key) == ((), one.name)
    config = json.loads((trained / "config.json").read_text())
    assert config.pop("columns") == [[*NAMES]]
    (trained / "config.json").write_text(json.dumps(config))
    assert folders.columns(trained) == ()
    np.save(tmp_path / "others.npy", X)
    for folder in (one, trained):
        _, found = members(folder, {"name": str(tmp_path / "others.npy")})[""].diagnosed()
        assert found._about.features is None


def test_a_forecast_that_earlier_versions_kept_of_free_bits_is_none(tmp_path) -> None:
    """It is that of the loss without them: 0 of 2 units were said to live where both do."""
    settings = Settings(epochs=2, free_bits=0.5)
    pc.sweep([SPEC], DATA, "linear", folder=tmp_path / "runs", settings=settings)
    (path,) = (tmp_path / "runs").glob("*/run.json")
    values = json.loads(path.read_text())
    assert values.pop("forecast") is None
    values["forecast"] = pc.fit(DATA, SPEC, "linear", epochs=1).summary()["forecast"]
    del values["sha256"]
    path.write_text(json.dumps({**values, "sha256": digest(as_read(values))}))
    assert Store(tmp_path / "runs").get(path.parent.name).forecast is None
    assert swept(tmp_path / "runs").runs[0].forecast is None
