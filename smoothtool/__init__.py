"""smoothtool: morph, invert, edit and drag pictures with diffusion models whose latent space is smooth.

    import smoothtool as st
    frames, report = st.interpolate(["fox.png", "cat.png"], frames=9)

Every subcommand is a function here: its positional argument first, its flags as keywords. Pictures may be paths,
`samples:NAME` or PIL images. Importing this module loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from smoothtool.threads import limit_spinning
from smoothtool.version import __version__ as __version__

if TYPE_CHECKING:
    from smoothtool.api import Result

limit_spinning()


def __getattr__(name: str) -> Callable[..., Result]:
    from smoothtool.api import Result, call
    from smoothtool.jobs import JOBS

    if name == "Result":
        return Result
    if name in JOBS:
        return partial(call, name)
    raise AttributeError(f"module 'smoothtool' has no attribute {name!r}")


def __dir__() -> list[str]:
    from smoothtool.jobs import JOBS

    return sorted([*globals(), "Result", *JOBS])
