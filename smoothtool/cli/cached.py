"""`smoothtool cache`: see and empty the caches."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.faults import Group
from smoothtool.cli.flags import Json
from smoothtool.errors import UsageError, closest
from smoothtool.files.storage import cache_contents
from smoothtool.files.storage.cache import InversionCache, cache_folder
from smoothtool.files.storage.cache_contents import KINDS

NAME_LETTERS = 20

app = typer.Typer(help="See and empty the caches.", cls=Group)
Kind = Annotated[
    str | None, typer.Argument(metavar="|".join(KINDS), help="One kind; all by default", show_default=False)
]


@app.command("list")
def list_entries(kind: Kind = None, as_json: Json = False) -> None:
    """List what is stored, of each kind the most recently used first."""
    if as_json:
        rows = {each: [_row(entry) for entry in cache_contents.cached(each)] for each in _kinds(kind)}
        kinds = {each: {"folder": str(cache_folder(each)), "entries": entries} for each, entries in rows.items()}
        console.document({"ok": True, "cache": kinds})
        return
    for each in _kinds(kind):
        entries = cache_contents.cached(each)
        if entries:
            console.table(
                [
                    (
                        each,
                        entry.name[:NAME_LETTERS],
                        _size(entry.size_bytes),
                        f"{datetime.fromtimestamp(entry.used_at):%Y-%m-%d %H:%M}",
                    )
                    for entry in entries
                ]
            )
        limit = f" of {InversionCache().max_bytes / 1e6:.0f} MB" if each == "inversions" else ""
        total = _size(sum(entry.size_bytes for entry in entries))
        console.notice(f"{each}: {len(entries)} entries, {total}{limit}, in {cache_folder(each)}: {KINDS[each]}")


@app.command()
def clear(kind: Kind = None, as_json: Json = False) -> None:
    """Delete what is stored; it is computed or fetched again when it is needed."""
    deleted = {each: cache_contents.clear(each) for each in _kinds(kind)}
    for each, count in deleted.items():
        console.notice(f"{each}: {count} entries deleted from {cache_folder(each)}")
    if as_json:
        console.document({"ok": True, "deleted": deleted})


def _kinds(kind: str | None) -> list[str]:
    if kind is not None and kind not in KINDS:
        raise UsageError(f"{kind}: no such kind, but {', '.join(KINDS)}", closest(kind, KINDS))
    return [kind] if kind else list(KINDS)


def _row(entry: cache_contents.Cached) -> dict[str, Any]:
    return {"name": entry.name, "size_bytes": entry.size_bytes, "used_at": entry.used_at}


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
