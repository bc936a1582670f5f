"""The published image sets: where files are looked for, and the download."""

from __future__ import annotations

import gzip
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pooch
import pytest

from idx_files import idx_bytes
from posterior_collapse.data import ChecksumWarning, available, fetch, load
from posterior_collapse.data.published import FILES, SOURCES, VARIABLE, download
from posterior_collapse.errors import (
    CorruptFileError,
    DownloadError,
    InvalidArgumentError,
    MissingFileError,
    OutputError,
    UnknownDatasetError,
)

HTML = b"<!DOCTYPE html>\n<html><body>Sign in</body></html>"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """Make the four files of a small image set: 12 and 7 images of 6 x 4."""
    generator = np.random.default_rng(0)
    files = {}
    for (images, labels), n in zip(FILES.values(), (12, 7), strict=True):
        pixels = generator.integers(0, 256, (n, 6, 4)).astype(np.uint8)
        files[images] = gzip.compress(idx_bytes(pixels))
        files[labels] = gzip.compress(idx_bytes((np.arange(n) % 3).astype(np.uint8)))
    return files


@contextmanager
def serving(answers: dict[str, bytes | int]) -> Iterator[tuple[str, list[str]]]:
    """Serve bytes, or an error status, per path; yield the address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers.get(self.path, 404)
            if isinstance(answer, int):
                self.send_error(answer)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


MNIST = os.environ.get("POSTERIOR_COLLAPSE_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a user's cache of its own, and no proxy between it and its server."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda _: folder)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder


@pytest.fixture
def source(published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes the small set the published "mnist", with given mirrors."""

    def publish(*mirrors: str) -> None:
        files = {**published, **plain(published)}
        checksums = {name: sha256(content) for name, content in files.items()}
        small = replace(SOURCES["mnist"], checksums=checksums, mirrors=mirrors)
        monkeypatch.setitem(SOURCES, "mnist", small)

    publish()
    return publish


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name.removesuffix(".gz"): gzip.decompress(c) for name, c in files.items()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


# --- where the files are looked for


@pytest.mark.parametrize("subfolder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("by", ["data_dir", "environment", "cache"])
def test_files_are_found(
    tmp_path: Path,
    cache: Path,
    published: dict[str, bytes],
    source: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    subfolder: str,
    by: str,
) -> None:
    data_dir = None
    if by == "cache":
        write(cache / "mnist", published)
    else:
        folder = tmp_path / "own"
        write(folder / subfolder, published)
        data_dir = folder if by == "data_dir" else None
        if by == "environment":
            monkeypatch.setenv(VARIABLE, str(folder))
    for split, n in (("train", 12), ("test", 7)):
        dataset = load("mnist", split=split, data_dir=data_dir)
        pixels = gzip.decompress(published[FILES[split][0]])[16:]
        expected = np.frombuffer(pixels, np.uint8).reshape(n, 24) / np.float32(255)
        np.testing.assert_array_equal(dataset.x, expected)
        assert dataset.note == f"{n} x 24 float32, pixels divided by 255"
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [i % 3 for i in range(n)]
        assert dataset.image_shape == (6, 4)
    entry = {e.name: e for e in available(data_dir)}["mnist"]
    assert entry.ready
    assert Path(entry.where).is_dir()


def test_data_dir_goes_before_the_environment(
    tmp_path: Path,
    published: dict[str, bytes],
    source: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / "first", published)
    write(tmp_path / "second", dict.fromkeys(published, HTML))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "second"))
    assert len(load("mnist", data_dir=tmp_path / "first")) == 12


def test_plain_files_are_read(
    tmp_path: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    folder = write(tmp_path / "plain", plain(published))
    for split, n in (("train", 12), ("test", 7)):
        assert len(load("mnist", data_dir=folder, split=split)) == n


def test_a_split_is_standardized_by_the_training_data(
    tmp_path: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    folder = write(tmp_path / "own", published)
    train, other = (load("mnist", split=s, data_dir=folder, label=1).x for s in ("train", "test"))
    for split, x in (("train", train), ("test", other)):
        found = load("mnist", split=split, data_dir=folder, label=1, standardize=True)
        std = np.where(train.std(0) > 0, train.std(0), 1)
        np.testing.assert_allclose(found.x, (x - train.mean(0)) / std, atol=1e-5)


@pytest.mark.parametrize("zipped", [True, False], ids=["gzipped", "plain"])
def test_own_file_with_another_checksum_is_used_with_a_warning(
    tmp_path: Path, published: dict[str, bytes], source: Callable[..., None], zipped: bool
) -> None:
    images = FILES["train"][0] if zipped else FILES["train"][0].removesuffix(".gz")
    other = idx_bytes(np.full((12, 6, 4), 255, np.uint8))
    other = gzip.compress(other) if zipped else other
    files = published if zipped else plain(published)
    folder = write(tmp_path / "own", {**files, images: other})
    with pytest.warns(ChecksumWarning) as caught:
        dataset = load("mnist", data_dir=folder)
    assert (dataset.x == 1).all()
    (warning,) = caught
    for words in (str(folder / images), sha256(other), sha256(files[images])):
        assert words in str(warning.message)


def zipped_anew(files: dict[str, bytes]) -> dict[str, bytes]:
    anew = {name: gzip.compress(content, mtime=1) for name, content in plain(files).items()}
    return {f"{name}.gz": content for name, content in anew.items()}


@pytest.mark.filterwarnings("error")
def test_a_file_that_was_zipped_anew_is_the_published_one(
    tmp_path: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    anew = zipped_anew(published)
    assert not {*anew.values()} & {*published.values()}
    found = load("mnist", data_dir=write(tmp_path / "own", anew))
    there = load("mnist", data_dir=write(tmp_path / "published", published))
    np.testing.assert_array_equal(found.x, there.x)


@pytest.mark.parametrize("own", [dict, plain, zipped_anew], ids=["gzipped", "plain", "anew"])
def test_a_file_of_the_other_set_is_not_taken(
    tmp_path: Path,
    published: dict[str, bytes],
    source: Callable[..., None],
    own: Callable[[dict[str, bytes]], dict[str, bytes]],
) -> None:
    # Both sets use the same file names, so a folder of bare MNIST files must not pass for fashion.
    folder = write(tmp_path / "own", own(published))
    with serving({}) as (address, asked), pytest.MonkeyPatch.context() as patch:
        fashion = replace(SOURCES["fashion-mnist"], mirrors=(address,))
        patch.setitem(SOURCES, "fashion-mnist", fashion)
        with pytest.raises(DownloadError):
            load("fashion-mnist", data_dir=folder)
    assert asked == ["/" + FILES["train"][0]]


def test_own_folders_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match=r"data_dir: got .*none.*expected a folder"):
        load("mnist", data_dir=tmp_path / "none")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(MissingFileError, match=r"\$POSTERIOR_COLLAPSE_DATA"):
        available()


def test_own_folders_that_cannot_be_looked_into(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    published: dict[str, bytes],
    source: Callable[..., None],
) -> None:
    for folder in ("a" * 300, "a\0b", "~nobody-of-that-name/data"):
        with pytest.raises(MissingFileError, match="data_dir: got"):
            load("mnist", data_dir=folder)
    with pytest.raises(MissingFileError, match="data_dir: got"):
        fetch("mnist", "~nobody-of-that-name/data")
    folder = write(tmp_path / "own", published)

    def refused(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pooch, "file_hash", refused)
    with pytest.raises(MissingFileError, match=r"idx3-ubyte\.gz: got 'Permission denied'"):
        load("mnist", data_dir=folder)


@pytest.mark.filterwarnings("ignore::posterior_collapse.data.ChecksumWarning")
def test_images_and_labels_that_do_not_match(
    tmp_path: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    labels = idx_bytes(np.zeros(11, np.uint8))
    flat = idx_bytes(np.zeros((12, 24), np.uint8))
    images_name, labels_name = (name.removesuffix(".gz") for name in FILES["train"])
    images = gzip.decompress(published[FILES["train"][0]])
    folder = write(tmp_path / "own", {images_name: images, labels_name: labels})
    with pytest.raises(CorruptFileError, match="one for each of the 12 images"):
        load("mnist", data_dir=folder)
    write(folder, {images_name: flat})
    with pytest.raises(CorruptFileError, match="2 dimensions; expected images"):
        load("mnist", data_dir=folder)


def test_a_split_of_another_name(source: Callable[..., None]) -> None:
    with pytest.raises(InvalidArgumentError, match="Did you mean 'train'"):
        load("mnist", split="tain")


# --- the download


def test_a_download_is_checked_and_cached(
    cache: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    with serving({f"/a/{name}": content for name, content in published.items()}) as (url, asked):
        source(f"{url}/a/")
        assert not {e.name: e for e in available()}["mnist"].ready
        first = load("mnist")
        np.testing.assert_array_equal(load("MNIST").x, first.x)
        assert asked == [f"/a/{name}" for name in FILES["train"]]
    for name in FILES["train"]:
        assert (cache / "mnist" / name).read_bytes() == published[name]
    assert sorted(leftovers(cache)) == sorted(FILES["train"])


def test_a_spoilt_cache_is_downloaded_again(
    cache: Path, published: dict[str, bytes], source: Callable[..., None]
) -> None:
    name = FILES["train"][0]
    write(cache / "mnist", {**published, name: published[name][:50]})
    with serving({f"/{name}": published[name]}) as (url, asked):
        source(url)
        assert len(load("mnist")) == 12
    assert asked == [f"/{name}"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (HTML, "an HTML page"),
        (b"something else", f"a file with SHA-256 {sha256(b'something else')}"),
        (404, "HTTP status 404"),
        (503, "HTTP status 503"),
    ],
)
def test_the_next_mirror_is_tried_and_failures_are_told(
    tmp_path: Path, bad: bytes | int, words: str
) -> None:
    good = b"the file"
    folder = tmp_path / "new" / "folder"
    answers: dict[str, bytes | int] = {"/bad/f.gz": bad, "/good/f.gz": good}
    with serving(answers) as (url, asked):
        path = download("f.gz", sha256(good), [f"{url}/bad", f"{url}/good/"], folder)
        assert path.read_bytes() == good
        assert asked == ["/bad/f.gz", "/good/f.gz"]
        path.unlink()
        mirrors = [f"{url}/bad", f"{url}/none"]
        with pytest.raises(DownloadError) as caught:
            download("f.gz", sha256(good), mirrors, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{url}/bad/f.gz: " in message
    assert f"{url}/none/f.gz: HTTP status 404" in message
    assert words in message
    assert sha256(good) in message
    assert leftovers(folder) == []


def test_a_failed_download_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    write(tmp_path, {"f.gz": b"old"})
    with serving({"/f.gz": HTML}) as (url, _), pytest.raises(DownloadError):
        download("f.gz", sha256(b"new"), [url], tmp_path)
    assert leftovers(tmp_path) == ["f.gz"]
    assert (tmp_path / "f.gz").read_bytes() == b"old"


def test_no_server_at_all(tmp_path: Path) -> None:
    with serving({}) as (url, _):
        pass
    with pytest.raises(DownloadError, match=f"{url}/f.gz: ConnectionError;"):
        download("f.gz", sha256(b""), [url], tmp_path)
    assert leftovers(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Choose another output path"):
        download("f.gz", sha256(b""), ["http://127.0.0.1:9"], tmp_path / "file" / "folder")


def test_fetch_gets_what_is_missing(
    tmp_path: Path,
    published: dict[str, bytes],
    source: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    have, *missing = published
    write(tmp_path / "d" / "mnist", {have: published[have]})
    with serving({f"/{name}": content for name, content in published.items()}) as (url, asked):
        source(url)
        paths = fetch("mnist", tmp_path / "d")
        assert asked == [f"/{name}" for name in missing]
        assert fetch("mnist", tmp_path / "d", progress=False) == paths
        assert len(asked) == 3
    assert [path.read_bytes() for path in paths] == list(published.values())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert missing[0] in captured.err
    assert len(load("mnist", data_dir=tmp_path / "d", split="test")) == 7


def test_fetch_of_what_needs_no_download() -> None:
    (path,) = fetch("digits")
    assert path.is_file()
    assert fetch("pairs:1/8") == ()
    with pytest.raises(UnknownDatasetError, match="Did you mean 'mnist'"):
        fetch("mnst")


def test_everything_available_has_a_name_that_loads() -> None:
    entries = available()
    assert [entry.name for entry in entries if not entry.ready] == ["mnist", "fashion-mnist"]
    for entry in entries:
        if entry.ready:
            dataset = load(entry.name)
            width = dataset.x.shape[1] + (0 if dataset.y is None else dataset.y.shape[1])
            assert (len(dataset), width) == (entry.samples, entry.features)


# --- the real thing


@pytest.mark.skipif(not MNIST, reason="$POSTERIOR_COLLAPSE_DATA is not set")
def test_the_checksums_of_plain_files_are_those_of_what_is_zipped() -> None:
    known = {digest: name for name, digest in SOURCES["mnist"].checksums.items()}
    checked = 0
    for path in Path(MNIST or "").rglob("*.gz"):
        name = known.get(sha256(path.read_bytes()))
        if name is not None:  # else a copy of one's own
            content = sha256(gzip.decompress(path.read_bytes()))
            assert content == SOURCES["mnist"].checksums[name.removesuffix(".gz")]
            checked += 1
    assert checked


@pytest.mark.skipif(not MNIST, reason="$POSTERIOR_COLLAPSE_DATA is not set")
def test_mnist() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChecksumWarning)  # a copy of one's own will do
        train = load("mnist", data_dir=MNIST, task="quarter")
        test = load("mnist", data_dir=MNIST, split="test", label=7)
    assert train.y is not None
    assert (train.x.shape, train.y.shape) == ((60_000, 196), (60_000, 588))
    assert train.x.dtype == train.y.dtype == np.float32
    assert train.labels is not None
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert (train.y.min(), train.y.max()) == (0, 1)
    assert test.x.shape == (1028, 784)
