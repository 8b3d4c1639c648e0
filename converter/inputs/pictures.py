"""Turns picture files into network inputs."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["SUFFIXES", "Place", "Preparation", "Unusable"]

Place = Path | zipfile.Path  # a picture, or a folder of them, on the disk or in an archive

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MOST_PIXELS = 64_000_000
MOST_BYTES = 256 << 20  # of one file, whatever it says of itself: 64 million pixels of RGB, and some
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError),
    *(
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ),  # of archives: damaged, with a password, packed unusually
)


class Unusable(Exception):
    """Data that the owner gave do not serve: what is wrong with them, and what to do about it."""

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input: resized, cropped to ``shape``, its pixels in [0, 1] scaled and shifted.

    ``shape`` is that of one sample, CxHxW or, with ``channels_last``, HxWxC; ``scale`` and ``offset`` hold one number
    or one a channel. ``name`` says in words where the numbers come from.
    """

    input: str
    shape: tuple[int, ...]
    channels_last: bool = False
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    name: str = "pixels from 0 to 1"

    @property
    def channels(self) -> int:
        """1 for grayscale, 3 for colour."""
        return self.shape[-1] if self.channels_last else self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.shape[:2] if self.channels_last else self.shape[1:]
        return height, width

    def read(self, path: Place) -> NDArray[np.float32]:
        """The picture as one sample of the input; raises Unusable naming the file."""
        pixels = _decode(path, self.channels, self.size)  # [height, width, channels] in [0, 1]
        prepared = pixels * np.asarray(self.scale, np.float32) + np.asarray(self.offset, np.float32)
        return np.ascontiguousarray(prepared if self.channels_last else prepared.transpose(2, 0, 1), np.float32)


def _decode(path: Place, channels: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """[height, width, channels] in [0, 1]: the middle of the picture, 7/8 of it across if it is larger than that."""
    height, width = size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with path.open("rb") as file:
                content = io.BytesIO(file.read(MOST_BYTES))
            with Image.open(content) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise Unusable(f"{path.name} has {opened.width}x{opened.height} pixels")
                picture = opened.convert("L" if channels == 1 else "RGB")
    except UNREADABLE as problem:
        folder = Path(str(path)).parent.name
        raise Unusable(f"{folder}/{path.name} is not a picture that can be read") from problem
    if picture.size != (width, height):
        cover = max(width / picture.width, height / picture.height)
        if cover < 7 / 8:
            cover *= 8 / 7  # the usual evaluation crop: 224 of 256
        scaled = max(width, round(picture.width * cover)), max(height, round(picture.height * cover))
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
        left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    return np.reshape(pixels, (height, width, channels))
