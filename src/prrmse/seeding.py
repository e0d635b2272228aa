"""Where every random draw gets its seed."""

from __future__ import annotations

import hashlib


def derive_seed(*identity: object) -> int:
    """A 63-bit seed from what the draw is for, e.g. ``derive_seed("pspnet", "acdc-seg", "batches", 0)``.

    Equal identities give equal draws on any machine and in any order of jobs; different ones are
    independent for all practical purposes (SHA-256).
    """
    text = "\x1f".join(str(part) for part in identity)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
