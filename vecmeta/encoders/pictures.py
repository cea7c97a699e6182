"""A picture in any format and mode to an upright RGB image, or an error that says what is wrong with it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vecmeta.errors import UndecodableContent

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000  # width times height; a larger picture is an error, told from its header before anything is decoded
_MAX_RATIO = 16  # networks see a square from the middle: of a longer strip the ends are cut, lest resizing make it enormous


def open_picture(content: Any, position: int) -> Image.Image:
    """An RGB image of a picture given as bytes or as the path of a file, in any format that Pillow reads.

    Turned upright by its EXIF orientation, transparency laid on white, the first frame of an animation, 16 bits cut to 8.
    Of a strip longer than 16 times its width only the middle is kept.

    Raises:
        UndecodableContent: another type, no such file, no picture, damaged, truncated, or of more than MAX_PIXELS pixels;
            carries `position`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = _bytes(content, position)
    try:
        with Image.open(BytesIO(data)) as image:
            _check_header(image, position)
            image.load()
            return _middle(_rgb(_upright(image, ImageOps)))
    except UndecodableContent:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UndecodableContent(f"picture {position} has more than {MAX_PIXELS:,} pixels: {error}", position) from error
    except UnidentifiedImageError as error:
        raise UndecodableContent(f"picture {position} is in no picture format ({len(data)} bytes)", position) from error
    except Exception as error:  # on damaged data Pillow's plugins raise nearly anything: OSError, SyntaxError, struct.error, ...
        raise UndecodableContent(f"picture {position} cannot be decoded: {error}", position) from error


def _bytes(content: Any, position: int) -> bytes:
    """The bytes of a picture. A str is not opened: it may come from anywhere, and it may be a text put in the wrong place."""
    if isinstance(content, bytes | bytearray | memoryview):
        data = bytes(content)
    elif isinstance(content, Path):
        try:
            if not content.is_file():  # a folder, a device, a pipe: reading might never end
                raise UndecodableContent(f"picture {position}: there is no file {content}", position)
            data = content.read_bytes()
        except (OSError, ValueError) as error:
            raise UndecodableContent(f"picture {position}: {content} cannot be read: {error}", position) from error
    else:
        given = type(content).__name__
        raise UndecodableContent(f"picture {position} must be given as bytes or as a Path, not as {given}", position)
    if not data:
        raise UndecodableContent(f"picture {position} is empty (0 bytes)", position)
    return data


def _check_header(image: Image.Image, position: int) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        detail = f"picture {position} has {width} x {height} pixels, more than {MAX_PIXELS:,}: make it smaller"
        raise UndecodableContent(detail, position)
    if image.format == "EPS":  # a program in PostScript, which Pillow would hand to Ghostscript
        raise UndecodableContent(f"picture {position} is EPS, which is not opened for safety: convert it to PNG", position)


def _upright(image: Image.Image, image_ops: Any) -> Image.Image:
    try:
        return image_ops.exif_transpose(image)  # type: ignore[no-any-return]
    except Exception:  # damaged EXIF data do not spoil the picture, which is decoded already
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        image = Image.fromarray(_stretched(np.asarray(image, np.float64)))
    elif image.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    white.alpha_composite(layer)
    return white.convert("RGB")


def _stretched(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Numbers without a scale of their own (32-bit, floating point), from their least to their greatest, as 0 to 255."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return scaled.round().astype(np.uint8)


def _middle(image: Image.Image) -> Image.Image:
    """The middle of a very long strip; any other picture as it is."""
    width, height = image.size
    long = _MAX_RATIO * min(width, height)
    if max(width, height) <= long:
        return image
    left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
    return image.crop((left, top, left + min(width, long), top + min(height, long)))
