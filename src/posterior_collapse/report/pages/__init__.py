"""Results as one self-contained HTML page each, and as the part of it that a notebook shows."""
