"""A writer of the IDX format, for tests of its reader."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(values: np.ndarray[Any, Any]) -> bytes:
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    header = struct.pack(">HBB", 0, CODES[values.dtype.str[1:]], values.ndim)
    return header + struct.pack(f">{values.ndim}I", *values.shape) + big_endian.tobytes()
