"""Products in single precision: exact for 8-bit integers, and no worse than they say for floats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior_collapse as pc
from commands import collapse
from posterior_collapse.moments import integers, single, wide
from posterior_collapse.moments.single import ROUNDING

G = np.random.default_rng(0)
N, D = 9000, 12
NOISE = G.standard_normal((N, D))
DATA = {
    "noise": NOISE,
    "a large mean": 100 * NOISE + 1e6,
    "far features": NOISE * np.geomspace(1e-3, 1e3, D),
    "a first part elsewhere": NOISE + 1e4 * (np.arange(N) >= 4096)[:, None],
    "sorted": NOISE[np.argsort(NOISE[:, 0])] * 10,
    "ink": (NOISE > 1) * np.linspace(0.5, 1, D),
    "rare": (NOISE > 3.3) * 1.0,
    "two values": np.where(NOISE > 0, 0.7, 0.1),
    "two values, then others": np.where(np.arange(N)[:, None] < 5000, NOISE > 0, NOISE + 50),
    "two tiny values in noise": 1e-20 * np.where(np.arange(D) < 3, NOISE > 0, NOISE),
    "far rows": (np.arange(N)[:, None] % 3000 == 1) * np.ones(D),
    "a far row in noise": NOISE + 1e5 * (np.arange(N)[:, None] == 1),
    "the first row far, its square too large": NOISE + 1e20 * (np.arange(N)[:, None] == 0),
    "far rows where groups begin": NOISE + 1e4 * (np.arange(N)[:, None] % 4096 == 0),
    "wide rows in two values": np.where(
        np.arange(N)[:, None] % 256 == 0, 5 * NOISE, 0.9 * (NOISE < 2)
    ),
    "rare values, and sorted": np.where(
        np.arange(D) == 0, 0.01 * NOISE, np.sort(np.where(NOISE > 2.3, 0.33, 0.0), axis=0)[::-1]
    ),
    "one in sixteen, sorted": np.where(
        np.arange(D) == 0, 0.01 * NOISE, np.sort(np.where(NOISE > -1.695, 0.3, 0.0), axis=0)
    ),
    "about one in sixteen": np.where(NOISE > 1.545, 0.3, 0.0),
    "huge": NOISE * 1e25,
    "tiny": NOISE * 1e-25,
    "both ends": np.where(NOISE > 0, 3e38, -3e38),
}


def error(found: pc.Moments, x: np.ndarray) -> float:
    """Largest error of an entry, as a share of the largest variance."""
    deviations = x.astype(np.float64) - x.astype(np.float64).mean(0)
    expected = deviations.T @ deviations / len(x)
    return float(np.abs(found.cov - expected).max() / expected.max())


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("way", ["array", "batches", "rows", "columns first", "sum"])
def test_errors_stay_below_what_moments_say(name: str, way: str) -> None:
    x = DATA[name].astype(np.float32)
    if way == "array":
        found = pc.Moments.from_arrays(x, precision="float32")
    elif way == "columns first":
        found = pc.Moments.from_arrays(np.asfortranarray(x), precision="float32")
    elif way == "sum":
        parts = [pc.Moments.from_arrays(p, precision="float32") for p in np.array_split(x, 3)]
        found = sum(parts[1:], start=parts[0])
    else:
        sizes = {"batches": [300] * (N // 300), "rows": [1] * 5 + [4095, 1, N - 4101]}[way]
        batches = np.split(x, np.cumsum(sizes)[:-1])
        found = pc.Moments.from_batches(batches, precision="float32")
    assert found.n == N
    assert found.rounding == ROUNDING
    assert error(found, x) < found.rounding
    assert error(pc.Moments.from_arrays(x), x) < 1e-12
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found.mean_x, exact.mean(0), rtol=0, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("pair", [(0, 1), (0.1, 0.7), (-1.527, 0.655), (3.0, -2.0)])
@pytest.mark.parametrize("rows", [N, 300])
def test_rounding_does_not_add_up_where_features_have_two_values(
    pair: tuple[float, float], rows: int
) -> None:
    """Each product of two such is the same again and again, and was rounded the same way."""
    x = np.where(np.linspace(-1, 1, D) < NOISE, *pair).astype(np.float32)
    found = pc.Moments.from_batches([x[i : i + rows] for i in range(0, N, rows)])
    single = pc.Moments.from_batches(
        [x[i : i + rows] for i in range(0, N, rows)], precision="float32"
    )
    assert error(found, x) < 1e-12
    assert error(single, x) < 3e-7  # of the division; it was 2e-6 to 8e-6


@pytest.mark.parametrize("far", [1e5, 1e6])
@pytest.mark.parametrize("at", [1, N // 2])
def test_one_far_row_costs_the_others_few_digits(far: float, at: int) -> None:
    x = (NOISE + far * (np.arange(N)[:, None] == at)).astype(np.float32)
    assert error(pc.Moments.from_arrays(x, precision="float32"), x) < 2e-6  # it was 2e-5


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.bool_])
@pytest.mark.parametrize("kind", ["any", "both ends", "one end", "sorted", "constant column"])
def test_integers_are_summed_exactly(dtype: type, kind: str) -> None:
    low, high = (0, 1) if dtype is np.bool_ else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = G.integers(low, high + 1, (5000, 6))
    if kind == "both ends":
        x = np.where(x > (low + high) / 2, high, low)
    elif kind == "one end":
        x[:-1] = high
    elif kind == "sorted":
        x = np.sort(x, axis=0)
    elif kind == "constant column":
        x[:, 2] = high
    n, sums = len(x), x.sum(0)
    expected = (n * (x.T @ x) - np.outer(sums, sums)) / n**2  # of whole numbers
    for found in (
        pc.Moments.from_arrays(x.astype(dtype)),
        pc.Moments.from_batches(np.array_split(x.astype(dtype), 9)),
        pc.Moments.from_arrays(x.astype(dtype), precision="float32"),
    ):
        assert found.rounding == 0
        np.testing.assert_allclose(found.cov, expected, rtol=1e-13, atol=1e-14 * expected.max())
        assert (found.cov[expected == 0] == 0).all() or kind != "constant column"
        np.testing.assert_allclose(found.mean_x, sums / n, rtol=1e-14, atol=1e-14)


def test_an_offset_that_moves_leaves_integers_exact() -> None:
    """Each group lies far from the mean so far."""
    x = np.repeat([0, 255, 0, 255], 1024)[:, None] * np.ones(3, int)
    x[::2, 0] += 1 - 2 * (x[::2, 0] > 0)
    found = pc.Moments.from_arrays(x.astype(np.uint8))
    np.testing.assert_allclose(found.cov, np.cov(x.T, bias=True), rtol=1e-14)


@pytest.mark.parametrize("rows", [1025, 4096, 9000])
def test_integers_sum_to_the_same_bits_with_and_without_torch(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    torch = pytest.importorskip("torch")
    x = G.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (rows, 37))
    found = []
    for loaded in (torch, None):
        monkeypatch.setitem(sys.modules, "torch", loaded)
        monkeypatch.setattr(integers, "_pays", lambda torch: True)
        both = pc.Moments.from_arrays(x[:, :9], (x[:, 9:] ^ 128).view(np.int8))
        found.append((both.mean, both.cov, pc.Moments.from_arrays(x).cov))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    exact = x.astype(np.int64)
    sums = exact.sum(0)
    expected = (rows * (exact.T @ exact) - np.outer(sums, sums)) / rows**2
    np.testing.assert_allclose(found[0][2], expected, rtol=1e-13, atol=1e-14 * expected.max())


@pytest.mark.parametrize("fault", ["overflows", "is missing", "is slow", None])
def test_integers_go_to_torch_only_where_it_sums_them_right_and_fast(
    monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    """On some processors the sum of two products of 8-bit integers is cut off at 16 bits."""

    class Torch:
        pass

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        pairs = a.astype(np.int64)[:, :, None] * b[None]
        pairs = pairs[:, ::2] + pairs[:, 1::2]
        return (np.clip(pairs, -(2**15), 2**15 - 1) if fault == "overflows" else pairs).sum(1)

    monkeypatch.setattr(integers, "SINGLE_ROWS", 32)
    monkeypatch.setattr(integers, "_by_torch", lambda torch, rows: torch._int_mm(rows.T, rows))
    seconds = iter([2.0, 1.0] if fault == "is slow" else [1.0, 2.0])
    monkeypatch.setattr(integers, "repeat", lambda run, number, repeat: [next(seconds)])
    if fault != "is missing":
        Torch._int_mm = staticmethod(product)
    assert integers._pays(Torch()) == (fault is None)


@pytest.mark.parametrize("margin", ["constant", "balanced", "late"])
def test_columns_at_the_margins_that_do_not_vary_cost_no_product(
    monkeypatch: pytest.MonkeyPatch, margin: str
) -> None:
    """Unless they vary: those whose sum alone is 0, or that vary in a later group."""
    x = np.where(NOISE > 1, NOISE, 0).astype(np.float32)
    x[:, :2], x[:, -3:], x[0, 2:-3] = 7, 0, 1
    if margin == "balanced":  # about the first row, in every group
        x[:, 0] = np.tile([7, 8, 7, 6], N // 4)
    elif margin == "late":
        x[5000:, -1] = NOISE[5000:, 0]
    widths = []
    product = single.Group.product
    monkeypatch.setattr(
        single.Group,
        "product",
        lambda group: (widths.append(len((found := product(group))[1])), found)[1],
    )
    found = pc.Moments.from_arrays(x, precision="float32")
    assert error(found, x) < found.rounding
    assert (widths[0] == D - 5) == (margin != "balanced")
    assert (found.cov[x.min(0) == x.max(0)] == 0).all()


def test_groups_after_the_first_are_not_shifted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row lies off the mean, for what features vary by on average, that is seen before."""
    shifted: list[int] = []
    recentre = single.Group.recentre
    monkeypatch.setattr(
        single.Group, "recentre", lambda group: (shifted.append(group.filled), recentre(group))
    )
    x = (NOISE * np.where(np.arange(D) < 2, 3, 0.1)).clip(-3, 3).astype(np.float32)
    x[::1024] = np.where(np.arange(D) < 2, 1.5, 0.1)  # less than one std of their own
    parts = [x[start : start + 1024] for start in range(0, N, 1024)]
    assert error(pc.Moments.from_batches(parts, precision="float32"), x) < ROUNDING
    assert len(shifted) <= 1


def test_constant_features_have_no_variance_at_all() -> None:
    x = NOISE.astype(np.float32)
    x[:, 3] = 0.1
    found = pc.Moments.from_arrays(x, precision="float32")
    assert not found.cov[3].any()
    assert found.mean_x[3] == np.float32(0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_place_of_what_is_not_finite_is_said(value: float) -> None:
    for row, column in [(0, 0), (4100, 3), (N - 1, D - 1)]:
        bad = NOISE.astype(np.float32)
        bad[row, column] = value
        words = rf"^x: got {value} at row {row}, column {column} \(counted from 0\);"
        for measure in (
            lambda x: pc.Moments.from_arrays(x, precision="float32"),
            lambda x: pc.Moments.from_batches(np.array_split(x, 7), precision="float32"),
            lambda x: pc.forecast(x, pc.VAESpec(2)),
        ):
            with pytest.raises(pc.DataError, match=words):
                measure(bad)


def test_other_data_are_measured_in_double_precision() -> None:
    for x in (NOISE, (NOISE * 1e4).astype(np.int32)):
        assert pc.Moments.from_arrays(x, precision="float32").rounding == 0
    short = NOISE.astype(np.float32)
    pair = pc.Moments.from_arrays(short[:, :5], short[:, 5:], precision="float32")
    batches = pc.Moments.from_batches([(short[:, :5], short[:, 5:])], precision="float32")
    assert pair.rounding == batches.rounding == 0
    assert error(pair, short) < 1e-12
    with pytest.raises(pc.InvalidArgumentError, match=r"^precision: got 'half'; expected one of"):
        pc.Moments.from_arrays(short, precision="half")


def test_dask_and_memory_maps_share_the_way(tmp_path) -> None:
    da = pytest.importorskip("dask.array")
    x = DATA["a large mean"].astype(np.float32)
    lazy = pc.Moments.from_arrays(da.from_array(x, chunks=(1000, 5)), precision="float32")
    np.save(tmp_path / "x.npy", x)
    mapped = pc.Moments.from_arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), precision="float32")
    for found in (lazy, mapped):
        assert found.rounding == ROUNDING
        assert error(found, x) < found.rounding


def test_wide_data_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "MAX_FEATURES", 50)
    mixed = G.standard_normal((60, 20)) @ G.standard_normal((20, 300))
    for scale, offset in ((1.0, 0.0), (100.0, 1e5), (1e25, 0.0)):
        x = (scale * (mixed + 0.1 * G.standard_normal(mixed.shape)) + offset).astype(np.float32)
        single, double = (pc.Moments.from_arrays(x, precision=p) for p in ("float32", "float64"))
        assert (single.rounding > 0) == (scale < 1e20) or single.rounding == ROUNDING
        values = [np.linalg.eigvalsh(m.xx)[::-1][:59] for m in (single, double)]
        np.testing.assert_allclose(*values, rtol=0, atol=1e-6 * values[1][0])
        variances = x.astype(np.float64).var(0)
        np.testing.assert_allclose(double.feature_variances, variances, rtol=1e-9)
        np.testing.assert_allclose(single.feature_variances, variances, rtol=1e-4)
        np.testing.assert_allclose(
            single.with_center(False)._rescaled(2.0).feature_variances, 4 * variances, rtol=1e-4
        )


SPECTRUM = np.array([100.0, 10.0, 3.0, 0.02, 0.0004, 1e-5])


def of_spectrum(variances: np.ndarray) -> np.ndarray:
    """Rows whose covariance has these eigenvalues, up to the rounding of float32 values."""
    columns = np.linalg.qr(G.standard_normal((5000, len(variances))))[0]
    columns -= columns.mean(0)
    columns = np.linalg.qr(columns)[0] * np.sqrt(5000 * variances)
    return (columns @ np.linalg.qr(G.standard_normal((len(variances),) * 2))[0]).astype(np.float32)


@pytest.mark.parametrize(
    ("eta_dec", "single"),
    [(1.5, True), (0.5, True), (0.2, False), (0.05, False), (0.003, False), ("learned", False)],
)
def test_a_forecast_takes_the_precision_that_its_threshold_needs(eta_dec, single) -> None:
    x = of_spectrum(SPECTRUM)
    spec = pc.VAESpec(5, eta_dec=eta_dec)
    found, sure = pc.forecast(x, spec), pc.forecast(x.astype(np.float64), spec)
    assert (found._modes.moments.rounding > 0) == single
    assert found.levels[0].status == sure.levels[0].status
    assert found.n_possible == sure.n_possible
    assert found.loss == pytest.approx(sure.loss, rel=1e-4 if single else 1e-12)
    if eta_dec == "learned":
        assert found.eta_dec == pytest.approx(sure.eta_dec, rel=1e-12)


def test_modes_below_rounding_stay_in_the_loss() -> None:
    x = of_spectrum(np.array([100.0, *[0.0006] * 199]))  # 0.1 in sum
    spec = pc.VAESpec(3)
    found, sure = pc.forecast(x, spec), pc.forecast(x.astype(np.float64), spec)
    assert found._modes.moments.rounding > 0
    assert np.count_nonzero(found.spectrum) == 1
    assert found.total_variance == pytest.approx(sure.total_variance, rel=1e-6)
    assert found.loss == pytest.approx(sure.loss, rel=1e-6)


def test_a_mode_next_to_its_threshold_is_measured_again() -> None:
    x = of_spectrum(SPECTRUM)
    near = float(pc.forecast(x.astype(np.float64), pc.VAESpec(5)).spectrum[2])
    for factor in (1 - 1e-9, 1 + 1e-9):
        found = pc.forecast(x, pc.VAESpec(5, eta_dec=np.sqrt(near * factor)))
        assert found._modes.moments.rounding == 0
        assert found.levels[0].status.count("active") == (3 if factor < 1 else 2)


def test_what_can_be_read_once_is_measured_in_double_precision() -> None:
    x = of_spectrum(SPECTRUM)
    batches = np.array_split(x, 5)
    assert pc.forecast(iter(batches), pc.VAESpec(3))._modes.moments.rounding == 0
    again = pc.forecast(batches, pc.VAESpec(3))
    assert again._modes.moments.rounding > 0
    assert again.loss == pytest.approx(pc.forecast(iter(batches), pc.VAESpec(3)).loss, rel=1e-4)


def kinds_of_data(x: np.ndarray, folder: Path) -> dict[str, Callable[[], Any]]:
    """The same rows, as people hold them."""
    frame = lambda library: pytest.importorskip(library).DataFrame(  # noqa: E731
        {f"a{i}": column for i, column in enumerate(x.T)}
    )

    def saved(name: str, save: Callable[[str], None]) -> Any:
        save(str(folder / name))
        return pc.load(folder / name)

    def parquet_folder() -> Any:
        pytest.importorskip("dask"), pytest.importorskip("pyarrow")
        for i, part in enumerate(np.array_split(x, 3)):
            names = [f"a{i}" for i in range(x.shape[1])]
            part = pytest.importorskip("pandas").DataFrame(part, columns=names)
            (folder / "parts").mkdir(exist_ok=True)
            part.to_parquet(folder / "parts" / f"{i}.parquet")
        return pc.load(folder / "parts")

    def torchs(make: Callable[[Any], Any]) -> Any:
        return make(pytest.importorskip("torch"))

    return {
        "array": lambda: x,
        "columns first": lambda: np.asfortranarray(x),
        "other bytes": lambda: x.astype(">f4"),
        "images": lambda: x.reshape(len(x), 2, -1),
        "batches": lambda: np.array_split(x, 5),
        "dask": lambda: pytest.importorskip("dask.array").from_array(x, chunks=(1000, 4)),
        "sparse": lambda: pytest.importorskip("scipy.sparse").csr_matrix(x),
        "pandas": lambda: frame("pandas"),
        "polars": lambda: frame("polars"),
        "tensor": lambda: torchs(lambda torch: torch.from_numpy(x)),
        "torch data set": lambda: torchs(
            lambda torch: torch.utils.data.TensorDataset(torch.from_numpy(x))
        ),
        "loader": lambda: torchs(
            lambda torch: torch.utils.data.DataLoader(torch.from_numpy(x), 300, shuffle=True)
        ),
        ".npy": lambda: saved("x.npy", lambda path: np.save(path, x)),
        ".npz": lambda: saved("x.npz", lambda path: np.savez(path, x=x)),
        "folder of .parquet": parquet_folder,
    }


@pytest.mark.parametrize("kind", kinds_of_data(np.zeros((1, 2), np.float32), Path()))
def test_every_kind_of_float32_data_goes_the_same_way(kind: str, tmp_path: Path) -> None:
    """Also by the command, from a file: fast where the answer has digits, and else in float64."""
    x = of_spectrum(SPECTRUM)
    data = kinds_of_data(x, tmp_path)[kind]()
    sure = pc.forecast(x.astype(np.float64), pc.VAESpec(5))
    found = pc.forecast(data, pc.VAESpec(5))
    assert found._modes.moments.rounding == ROUNDING
    assert found.hidden_variance == pytest.approx(ROUNDING * sure.spectrum[0], rel=1e-4)
    assert found.levels[0].status == sure.levels[0].status
    np.testing.assert_allclose(
        found.spectrum[:4], sure.spectrum[:4], rtol=0, atol=ROUNDING * sure.spectrum[0]
    )
    assert found.loss == pytest.approx(sure.loss, rel=1e-4)
    low = pc.VAESpec(5, eta_dec=0.003)
    assert pc.forecast(data, low)._modes.moments.rounding == 0


@pytest.mark.parametrize("form", [".npy", ".npz", "folder of .parquet"])
@pytest.mark.parametrize("is_long", [False, True])
def test_a_command_takes_the_way_of_the_library(
    form: str, is_long: bool, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posterior_collapse.cli import forecast_command

    if is_long and form != "folder of .parquet":
        monkeypatch.setattr(forecast_command, "_is_long", lambda dataset: True)
    x = of_spectrum(SPECTRUM)
    name = {".npy": "x.npy", ".npz": "x.npz"}.get(form, "parts")
    data = kinds_of_data(x, tmp_path)[form]()
    taken: list[str] = []
    of = pc.Moments.of.__func__
    monkeypatch.setattr(
        pc.Moments,
        "of",
        classmethod(lambda cls, *a, **k: (taken.append(k["precision"]), of(cls, *a, **k))[1]),
    )
    options = ["forecast", str(tmp_path / name), "--latents", "5", "--json"]
    for arguments, spec, precisions in (
        ([], pc.VAESpec(5), ["float32"]),
        (["--eta-dec", "0.003"], pc.VAESpec(5, eta_dec=0.003), ["float32", "float64"]),
        (["--html", str(tmp_path / "page.html")], None, ["float64"]),
    ):
        taken.clear()
        assert collapse(*options, *arguments) == 0
        assert taken == precisions
        found = json.loads(capsys.readouterr().out)
        if spec is not None:
            same = pc.forecast(data, spec)
            assert found["loss"] == pytest.approx(same.loss, rel=1e-7)
            assert found["hidden_variance"] == pytest.approx(same.hidden_variance, rel=1e-7)
    taken.clear()
    assert collapse(*options, "--eta-dec", "1,0.5,0.003,0.002") == 0
    assert taken == ["float32", "float64"]  # once each, for all four


def test_moments_in_single_precision_say_what_they_may_hide() -> None:
    x = of_spectrum(SPECTRUM)
    moments = pc.Moments.from_arrays(x, precision="float32")
    assert not any("rounding" in note for note in pc.forecast(moments, pc.VAESpec(5)).notes)
    few = pc.forecast(moments, pc.VAESpec(6, eta_dec=0.001))
    assert any("lost to rounding" in note for note in few.notes)
    assert few.hidden_variance == pytest.approx(ROUNDING * few.spectrum[0])
    assert not any(
        "rounding" in note for note in pc.forecast(x, pc.VAESpec(6, eta_dec=0.001)).notes
    )
