"""Names for files and folders that hold on every system, made from whatever people write."""

from __future__ import annotations

import re

MAX_PART_BYTES = 120
"""Of one part of a name: file systems end at 255, and numbers or the kind of file may be added."""
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069<>:"/\\\\|?*{}]+')


def safe_name(text: str) -> str:
    """One part of a path on any system: one line, no slashes, nothing hidden, nothing that reorders text, not too long.

    Braces neither: names stand in the plan that --dry-run prints, as output templates.
    """
    plain = text.encode("utf-8", errors="replace").decode()
    plain = _UNSAFE.sub("-", plain).strip(" .")
    return plain.encode()[:MAX_PART_BYTES].decode(errors="ignore").strip(" .") or "-"
