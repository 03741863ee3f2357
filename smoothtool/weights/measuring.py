"""Where the networks lie that measure pictures: CLIP and DINO, by folder or hub id."""

from __future__ import annotations

from pathlib import Path

from smoothtool.errors import ModelError


def network_folder(source: str | Path, kind: str) -> Path:
    """A folder, or the one in the hub's cache on this machine; nothing is downloaded.

    kind  CLIP or DINO, for the message
    Raises: ModelError when it is not there.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: this {kind} is not on this machine", f"hf download {source}") from error
