"""What a picture says about its making: settings to repeat it, A1111's parameters text, and the IPTC source type."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath
from typing import Any, Literal
from xml.sax.saxutils import escape, unescape

from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from smoothtool.errors import UsageError
from smoothtool.files.storage.writing import plain
from smoothtool.weights.models import is_hub_id, split_revision

DigitalSource = Literal["compositeWithTrainedAlgorithmicMedia", "trainedAlgorithmicMedia"]
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"  # an identifier: http, whatever the web site uses
EXIF_FOLDER, USER_COMMENT = 0x8769, 0x9286

XMP_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:smoothtool="urn:smoothtool">{properties}</rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def a1111_parameters(
    *,
    prompt: str,
    steps: int,
    guidance_scale: float,
    seed: int | None,
    size_px: tuple[int, int],
    model: str,
    negative_prompt: str = "",
    sampler: str = "DDIM",
    extra: dict[str, Any] | None = None,
) -> str:
    """The text that AUTOMATIC1111's UI and the sites built on it read: prompt, negative prompt, one line of fields.

    seed   None when nothing was random
    extra  further fields for the last line, for example {"LoRA": "smooth:1.0"}
    """
    fields = {
        "Steps": steps,
        "Sampler": sampler,
        "CFG scale": guidance_scale,
        "Seed": seed,
        "Size": f"{size_px[0]}x{size_px[1]}",
        "Model": _model_name(model),
        **(extra or {}),
    }
    lines = [_one_line(prompt)]
    if negative_prompt:
        lines.append(f"Negative prompt: {_one_line(negative_prompt)}")
    lines.append(", ".join(f"{name}: {_field(value)}" for name, value in fields.items() if value is not None))
    return "\n".join(lines)


def _model_name(model: str) -> str:
    """Of a model that is a file or folder the last part alone: pictures travel, and paths tell of their maker."""
    path = PurePath(model)
    if is_hub_id(split_revision(model)[0]) or len(path.parts) < 2:
        return model
    return path.stem if path.suffix == ".safetensors" else path.name


LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}
"""Kinds of files with a quality, as Pillow calls them."""


def check_format(suffix: str) -> None:
    """Raises: UsageError when this Pillow cannot write such pictures, as those before 11.3 cannot write AVIF."""
    if suffix == "avif" and not ("avif" in features.modules and features.check("avif")):
        raise UsageError("--format avif: this Pillow cannot write it", "pip install -U pillow, or --format webp")


def metadata_options(
    path: Path,
    settings: dict[str, Any] | None,
    parameters: str | None,
    digital_source: DigitalSource | None,
    quality: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments for Pillow's `save`, by the kind of file.

    PNG has a text chunk each for settings and parameters; JPEG, WebP and AVIF carry the settings in XMP and the
    parameters in the EXIF user comment, where A1111 puts and seeks them.
    quality  1 to 100, of those three; 95 by default
    Raises: UsageError when the suffix is none of png, jpg, jpeg, webp, avif.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        return {"format": "PNG", "pnginfo": _png_chunks(settings, parameters, digital_source)}
    if suffix not in LOSSY:
        raise UsageError(f"{path}: pictures are written as png, jpg, webp or avif", f"{path.stem}.png")
    options: dict[str, Any] = {"format": LOSSY[suffix], "quality": quality or 95}
    if settings is not None or digital_source is not None:
        options["xmp"] = _xmp(settings, digital_source)
    if parameters is not None:
        exif = Image.Exif()
        exif[EXIF_FOLDER] = {USER_COMMENT: b"UNICODE\0" + parameters.encode("utf-16-be", errors="replace")}
        options["exif"] = exif
    return options


def settings_inside(image: Image.Image) -> dict[str, Any] | None:
    """The settings that `metadata_options` put in; None when there are none, or none that can be read."""
    text = image.info.get("smoothtool")
    if not isinstance(text, str):
        xmp = image.info.get("xmp", b"")
        packet = xmp.decode("utf-8", errors="replace") if isinstance(xmp, bytes) else str(xmp)
        found = re.search(r"<smoothtool:settings>([^<]*)<", packet)
        text = unescape(found[1]) if found else ""
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _png_chunks(
    settings: dict[str, Any] | None, parameters: str | None, digital_source: DigitalSource | None
) -> PngInfo:
    chunks = PngInfo()
    if settings is not None:
        chunks.add_text("smoothtool", json.dumps(plain(settings)))
    if parameters is not None:
        chunks.add_text("parameters", parameters.encode("utf-8", errors="replace").decode().replace("\0", ""))
    if digital_source is not None:
        chunks.add_itxt("XML:com.adobe.xmp", _xmp(None, digital_source).decode())
    return chunks


def _xmp(settings: dict[str, Any] | None, digital_source: DigitalSource | None) -> bytes:
    """JSON keeps to ASCII without control characters, so that escaping markup is all that XML asks for."""
    properties = ""
    if digital_source is not None:
        url = SOURCE_TYPES + digital_source
        properties += f"<Iptc4xmpExt:DigitalSourceType>{url}</Iptc4xmpExt:DigitalSourceType>"
    if settings is not None:
        properties += f"<smoothtool:settings>{escape(json.dumps(plain(settings)))}</smoothtool:settings>"
    return XMP_PACKET.format(properties=properties).encode()


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _field(value: Any) -> str:
    """Quoted as A1111 does when the text would break the line of fields apart."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text
