"""Which pictures are read: one list of formats for folders, globs, training data, measurements and the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    "MPO": (".mpo",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "ICO": (".ico",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
"""Raster formats that Pillow decodes by itself, by its names. EPS would start Ghostscript on a stranger's file."""

PICTURE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

UNREADABLE: dict[str, tuple[str, ...]] = {
    "HEIC": (".heic", ".heif", ".hif", ".heics", ".heifs", ".avci"),
    "JPEG XL": (".jxl",),
    "JPEG XR": (".jxr", ".wdp", ".hdp"),
    "SVG": (".svg", ".svgz"),
    "Photoshop": (".psd", ".psb"),
    "PostScript": (".eps", ".ps", ".ai"),
    "PDF": (".pdf",),
    "GIMP": (".xcf",),
    "Krita": (".kra",),
    "OpenEXR": (".exr",),
    "Radiance": (".hdr", ".rgbe"),
    "camera raw": (
        ".dng",
        ".cr2",
        ".cr3",
        ".crw",
        ".nef",
        ".nrw",
        ".arw",
        ".srf",
        ".sr2",
        ".raf",
        ".orf",
        ".rw2",
        ".raw",
        ".rwl",
        ".pef",
        ".srw",
        ".x3f",
        ".3fr",
        ".fff",
        ".iiq",
        ".erf",
        ".kdc",
        ".dcr",
        ".mrw",
        ".mef",
        ".mos",
    ),
    "other": (
        ".pcx",
        ".dcx",
        ".qoi",
        ".dds",
        ".sgi",
        ".rgb",
        ".rgba",
        ".bw",
        ".xbm",
        ".xpm",
        ".cur",
        ".icns",
        ".fits",
        ".fit",
        ".wmf",
        ".emf",
        ".djvu",
        ".bpg",
        ".flif",
        ".pcd",
        ".ras",
        ".im",
        ".msp",
        ".blp",
        ".ftex",
        ".pam",
    ),
}
"""Pictures that people have and that are not read, by what they are called: named where they are left out."""

_UNREADABLE_SUFFIXES = {suffix: kind for kind, suffixes in UNREADABLE.items() for suffix in suffixes}
_SIGNATURES = (
    (4, b"ftypheic", "HEIC"), (4, b"ftypheix", "HEIC"), (4, b"ftypheim", "HEIC"), (4, b"ftypheis", "HEIC"),
    (4, b"ftyphevc", "HEIC"), (4, b"ftyphevx", "HEIC"), (4, b"ftypmif1", "HEIC"), (4, b"ftypmsf1", "HEIC"),
    (0, b"\xff\x0a", "JPEG XL"), (4, b"JXL \r\n\x87\n", "JPEG XL"), (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "Photoshop"), (0, b"%PDF", "PDF"), (0, b"%!PS", "PostScript"), (0, b"gimp xcf", "GIMP"),
    (0, b"v/1\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance"), (0, b"<svg", "SVG"),
)  # fmt: skip
"""(offset, bytes, kind): how such files begin, whatever they are called."""
NAMED = 5
"""Files that one line about what was left out names; it counts the others."""


def is_picture(name: str | PurePath) -> bool:
    """Whether a file of that name is taken for a picture that can be read."""
    return PurePath(name).suffix.lower() in PICTURE_SUFFIXES


def is_unreadable_picture(name: str | PurePath) -> bool:
    """Whether a file of that name is a picture of a kind that is not read."""
    return PurePath(name).suffix.lower() in _UNREADABLE_SUFFIXES


def unreadable_kind(name: str | PurePath, head: bytes) -> str:
    """What a file that could not be read as a picture is, by its first bytes, else by its name; or empty."""
    found = next((kind for at, start, kind in _SIGNATURES if head[at : at + len(start)] == start), "")
    named = _UNREADABLE_SUFFIXES.get(PurePath(name).suffix.lower(), "")
    return found or ("" if named == "other" else named)


def left_out(names: Iterable[str]) -> str:
    """One line about pictures that were found and cannot be read; empty where there are none."""
    listed: Sequence[str] = sorted(names)
    if not listed:
        return ""
    shown = ", ".join(listed[:NAMED]) + (", …" if len(listed) > NAMED else "")
    what = "1 picture of a format that is" if len(listed) == 1 else f"{len(listed)} pictures of formats that are"
    return f"left out: {what} not read ({shown}); PNG or JPEG copies would be"
