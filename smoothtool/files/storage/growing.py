"""Folders that grow by records and checkpoints: a later run goes on in them, or begins again beside what they hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from smoothtool.errors import UsageError, storage_error
from smoothtool.files.storage.exchange import replace_folder
from smoothtool.files.storage.leftovers import held, moved_beside
from smoothtool.files.storage.output import check_movable, create_folder, output_folder, results_folder

AGAIN = ".again"
"""Folder inside a result in which it is begun again; it takes the place of the whole when it is finished."""


@dataclass
class GrowingFolder:
    """Where a result lies, and where this run works on it.

    place     the folder that was asked for
    begun     whether what is there stays until this run has finished, which works in `place`/.again
    fresh     whether an earlier attempt to begin again is thrown away
    moved_on  for a name that nobody chose: another one, when a process has taken it meanwhile
    """

    place: Path
    begun: bool = False
    fresh: bool = False
    moved_on: Callable[[], Path] | None = None

    @property
    def work(self) -> Path:
        return self.place / AGAIN if self.begun else self.place

    @contextmanager
    def opened(self, *, alone: bool) -> Iterator[Path]:
        """The folder to work in, made if need be. What was begun again takes its place at the end, and stays after an
        exception, to be gone on with.

        alone  no other run may work there at the same time; beginning again always is
        Raises: UsageError when another run is at work; StorageError.
        """
        if not self.begun:
            self.place = create_folder(self.place, self.moved_on)
        with _alone(self.place, alone or self.begun):
            if self.begun:
                _clear(self.work, self.fresh)
            try:
                yield self.work
            except BaseException:
                with suppress(OSError):  # something lies in it
                    self.work.rmdir()
                raise
            if self.begun:
                _take_place(self.work, self.place)


def growing_folder(
    root: Path,
    *,
    is_ours: Callable[[Path], bool],
    force: bool,
    moved_on: Callable[[], Path] | None = None,
) -> GrowingFolder:
    """A new folder, or one to go on in: checked, and as it was.

    is_ours  whether a folder holds work of this kind; one that was begun again and not finished is gone on with
    force    begin again: what is there is replaced when that is done
    Raises: UsageError and StorageError as `output_folder` does.
    """
    folder = results_folder(root)
    if is_ours(folder):
        if force:
            check_movable(folder, root)
        return GrowingFolder(folder, begun=force or is_ours(folder / AGAIN), fresh=force)
    folder = output_folder(root, force=force)
    replaced = folder.is_dir() and any(folder.iterdir())
    return GrowingFolder(folder, begun=replaced, fresh=replaced, moved_on=moved_on)


@contextmanager
def _alone(folder: Path, wanted: bool) -> Iterator[None]:
    """Raises: UsageError when another process is there, which the operating system forgets when that dies."""
    if not wanted:
        yield
        return
    try:
        with held(folder):
            yield
    except BlockingIOError as error:
        raise UsageError(f"{folder}: another run is at work there", "another folder with -o, or wait for it") from error


def _clear(folder: Path, fresh: bool) -> None:
    try:
        if fresh and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


def _take_place(new: Path, folder: Path) -> None:
    try:
        with moved_beside(new, folder) as beside:
            replace_folder(beside, folder)
    except OSError as error:
        raise storage_error(folder, error) from error
