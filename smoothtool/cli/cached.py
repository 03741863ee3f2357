"""`smoothtool cache`: see and empty the cache of inversions."""

from __future__ import annotations

from datetime import datetime

import typer

from smoothtool.cli import console
from smoothtool.files.storage.cache import InversionCache

app = typer.Typer(help="See and empty the cache of inversions.", no_args_is_help=True)


@app.command("list")
def list_entries() -> None:
    """List stored inversions, the most recently used first."""
    cache = InversionCache()
    entries = cache.entries()
    rows = [
        (entry.key[:12], f"{entry.size_bytes / 1e6:.1f} MB", f"{datetime.fromtimestamp(entry.used_at):%Y-%m-%d %H:%M}")
        for entry in entries
    ]
    if rows:
        console.table(rows)
    total = sum(entry.size_bytes for entry in entries)
    count = f"{len(rows)} inversion{'s' * (len(rows) != 1)}"
    console.notice(f"{count}, {total / 1e6:.1f} of {cache.max_bytes / 1e6:.0f} MB, in {cache.folder}")


@app.command()
def clear() -> None:
    """Delete every stored inversion."""
    cache = InversionCache()
    console.notice(f"{cache.clear()} inversions deleted from {cache.folder}")
