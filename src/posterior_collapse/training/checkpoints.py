"""States of a run on disk: tensors in safetensors, the rest in JSON, never pickle.

A checkpoint is two files in the run's folder, `checkpoint-STEP-HASH.safetensors` and
`checkpoint-STEP.json`. The JSON is written last and carries the SHA-256 of the tensors and of
itself: it is the commit point. A process killed at any moment leaves the previous checkpoints
whole, and a file that was truncated or edited later is told from a good one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from posterior_collapse import checks, files
from posterior_collapse.errors import CheckpointError, needing, writing
from posterior_collapse.files import digest

with needing(
    "safetensors",
    "safetensors to write checkpoints",
    "Run pip install 'posterior-collapse[torch]'.",
):
    from safetensors import SafetensorError
    from safetensors.torch import load as parse_tensors
    from safetensors.torch import save as serialise_tensors

FORMAT = "posterior-collapse checkpoint"
VERSION = 1
KEEP = 2
COMMIT = re.compile(r"checkpoint-(\d{10,})\.json")
TENSORS = re.compile(r"checkpoint-\d{10,}-[0-9a-f]{16}\.safetensors")


class Checkpoint(NamedTuple):
    """A state of a run.

    Attributes:
        tensors: Parameters, optimiser moments, generator states, ... on the CPU.
        meta: Everything else, as JSON gives it back (tuples come back as lists).
    """

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class CheckpointWarning(UserWarning):
    """A checkpoint was refused and an older one is used."""


class _RefusedError(Exception):
    """Why one checkpoint cannot be used."""


def save(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    step: int,
    keep: int = KEEP,
) -> Path:
    """Write a state and return the path of its JSON file.

    Older checkpoints beyond `keep` go, and so do those of later steps: a run that saves at `step`
    has abandoned them.

    Args:
        folder: Folder of the run; made if missing.
        tensors: Tensors of any type and device by name; they may share memory.
        meta: JSON-able values; floats, NaN and infinities included, survive exactly.
        step: Optimiser steps done.
        keep: How many checkpoints to keep, this one included.

    Raises:
        InvalidArgumentError: `keep` is below 1.
        OutputError: The folder cannot be written; checkpoints that are there stay.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(folder, {"weight": torch.ones(2)}, {"epoch": 3}, step=60)
        ...     load(folder)
        Checkpoint(step=60, tensors={'weight': tensor([1., 1.])}, meta={'epoch': 3})
    """
    folder = Path(folder)
    keep = checks.count("keep", keep)
    # safetensors refuses views and tensors that share memory.
    own = {n: tensor.detach().to("cpu", copy=True).contiguous() for n, tensor in tensors.items()}
    content = serialise_tensors(own)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
        # Keys become text before the record is hashed, as they will be when it is read.
        "meta": json.loads(json.dumps(dict(meta))),
    }
    text = json.dumps({**record, "record_sha256": digest(record)}, indent=1)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / _commit_name(step)
    # Should the power fail between the two names, the older checkpoints are still there.
    files.write(folder / _tensors_name(record), content, sync_folder=False)
    files.write(path, text.encode())
    prune(folder, step, keep)
    return path


def load(folder: str | Path, *, step: int | None = None) -> Checkpoint:
    """Return the newest good checkpoint, or that of a step; warn of newer ones that are not.

    It runs no code.

    Raises:
        CheckpointError: There is none, or none is good; the message says why.
    """
    folder = Path(folder)
    refused: list[str] = []
    for number, path in _newest_first(folder):
        if step is not None and number != step:
            continue
        try:
            checkpoint = _read(path)
        except _RefusedError as reason:
            refused.append(f"{path.name} {reason}")
            continue
        for sentence in refused:
            warnings.warn(
                f"{folder}: {sentence}; step {checkpoint.step} is used instead.",
                CheckpointWarning,
                stacklevel=2,
            )
        return checkpoint
    raise CheckpointError(
        str(folder),
        "; ".join(refused) or "no checkpoint",
        "a good checkpoint" + ("" if step is None else f" of step {step}"),
        "Delete its checkpoints to start anew with resume, or train into a new folder.",
    )


def exists(folder: str | Path) -> bool:
    """Return whether the folder holds a checkpoint, good or not.

    Example:
        >>> exists("no/such/folder")
        False
    """
    return any(_newest_first(Path(folder)))


def pack(folders: Sequence[str | Path]) -> list[dict[str, bytes]]:
    """Return the files of a checkpoint per folder, by name, to be sent elsewhere.

    They are of runs that train together, whose newest common step is taken. Where one folder holds
    no checkpoint, there are none of any.

    Raises:
        CheckpointError: None is good, or they have no step in common.
    """
    paths = [Path(folder) for folder in folders]
    if not all(map(exists, paths)):
        return [{} for _ in paths]
    step = min(load(path).step for path in paths)
    found = []
    for path in paths:
        load(path, step=step)
        commit = path / _commit_name(step)
        names = (_tensors_name(_read_record(commit)), commit.name)
        found.append({name: (path / name).read_bytes() for name in names})
    return found


def unpack(packed: Sequence[Mapping[str, bytes]], folders: Sequence[str | Path]) -> None:
    """Write what `pack` returned; older checkpoints stay as if `save` had written it.

    Raises:
        OutputError: A folder cannot be written.
    """
    for contents, folder in zip(packed, map(Path, folders), strict=True):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():  # the commit point last
            files.write(folder / name, content)
            if match := COMMIT.fullmatch(name):
                prune(folder, int(match[1]))


def _commit_name(step: int) -> str:
    return f"checkpoint-{step:010d}.json"


def _tensors_name(record: Mapping[str, Any]) -> str:
    # The hash in the name keeps a step that is saved twice whole in between.
    return f"checkpoint-{record['step']:010d}-{record['tensors_sha256'][:16]}.safetensors"


def _newest_first(folder: Path) -> Iterator[tuple[int, Path]]:
    paths = list(folder.iterdir()) if folder.is_dir() else []
    steps = [(int(match[1]), path) for path in paths if (match := COMMIT.fullmatch(path.name))]
    yield from sorted(steps, reverse=True)


def _read(path: Path) -> Checkpoint:
    record = _read_record(path)
    tensors = path.with_name(_tensors_name(record))
    try:
        content = tensors.read_bytes()
    except OSError as error:
        raise _RefusedError(f"lacks its tensors ({tensors.name}: {error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != record["tensors_sha256"]:
        raise _RefusedError(f"has other tensors than were saved ({tensors.name}: SHA-256 differs)")
    try:
        return Checkpoint(record["step"], parse_tensors(content), record["meta"])
    except (SafetensorError, ValueError) as error:
        raise _RefusedError(f"has tensors that are not safetensors ({error})") from error


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise _RefusedError(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _RefusedError("is truncated or not JSON") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _RefusedError("is not a checkpoint of this package")
    if record.get("version") != VERSION:
        raise _RefusedError(f"has version {record.get('version')!r}, not {VERSION}")
    if record.pop("record_sha256", None) != digest(record):
        raise _RefusedError("was edited (SHA-256 differs)")
    if not (
        type(record["step"]) is int
        and isinstance(record["meta"], dict)
        and TENSORS.fullmatch(_tensors_name(record))
    ):
        raise _RefusedError("is malformed")
    if path.name != _commit_name(record["step"]):
        raise _RefusedError(f"was renamed: it holds step {record['step']}")
    return record


def prune(folder: str | Path, step: int, keep: int = KEEP) -> None:
    """Delete what the checkpoint of a step supersedes, commit points before their tensors.

    `save` does so itself; a process killed in it leaves the rest to the run that resumes. Those of
    later steps go; so many are kept, that of this step included.
    """
    folder = Path(folder)
    with writing(folder):
        found = list(_newest_first(folder))
        kept = [path for number, path in found if number <= step][:keep]
        for _, path in found:
            if path not in kept:
                path.unlink(missing_ok=True)
        needed = set()
        for path in kept:
            with contextlib.suppress(_RefusedError):
                needed.add(_tensors_name(_read_record(path)))
        for path in folder.iterdir():
            rubbish = TENSORS.fullmatch(path.name) or (
                path.name.startswith(".checkpoint-") and path.name.endswith(files.PARTIAL)
            )
            if rubbish and path.name not in needed:
                path.unlink(missing_ok=True)
