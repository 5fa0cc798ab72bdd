"""Labelled photographs to wrap: from a file or folder, from RetinaMNIST, or drawn phantom eyes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from PIL import Image, ImageDraw, ImageFilter

from qfundus.errors import SetupError
from qfundus.imaging.labelled import UNREADABLE, read_labelled

_log = structlog.get_logger()
PHOTOGRAPH_ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


@dataclass(frozen=True)
class Photographs:
    """RGB photographs with their grades.

    `images` holds arrays `(height, width, 3)` of uint8, `grades` one grade 0-4 for each; `source` names their origin
    and `phantom` says that no real eye is among them.
    """

    images: list[np.ndarray]
    grades: list[int]
    source: str
    phantom: bool = False


def find_photographs(data: Path | None, cache: Path, phantoms: int = 240) -> Photographs:
    """Take the photographs from `data`, else RetinaMNIST by its package, else draw phantom eyes.

    Raises:
        SetupError: if `data` is neither an npz file nor a folder with photographs and `labels.csv`.
    """
    if data is not None:
        return read_photographs(data)
    return fetch_retinamnist(cache) or draw_phantoms(phantoms)


def read_photographs(data: Path) -> Photographs:
    """Read all photographs of an npz file, or of a folder with `labels.csv`."""
    labelled = read_labelled(data)
    images: list[np.ndarray] = []
    for photograph in labelled:
        try:
            images.append(photograph.read())
        except UNREADABLE as error:
            raise SetupError(f"{photograph.name} of {data.name} cannot be read ({type(error).__name__}).") from None
    return Photographs(images, [photograph.grade for photograph in labelled], data.name)


def fetch_retinamnist(cache: Path) -> Photographs | None:
    """Download RetinaMNIST (MedMNIST v2, CC BY 4.0) where the internet allows, else return None."""
    from medmnist import RetinaMNIST

    cache.mkdir(parents=True, exist_ok=True)
    try:
        for split in ("train", "val"):
            RetinaMNIST(split=split, download=True, root=str(cache))
    except (RuntimeError, OSError) as error:
        _log.warning("RetinaMNIST cannot be fetched; phantom eyes are drawn instead", why=type(error).__name__)
        return None
    arrays = np.load(cache / "retinamnist.npz")
    images = [image for split in ("train", "val") for image in arrays[f"{split}_images"]]
    grades = [int(g) for split in ("train", "val") for g in arrays[f"{split}_labels"].ravel()]
    return Photographs(images, grades, "RetinaMNIST (train and val)")


def draw_phantoms(count: int, size: int = 280, seed: int = 0) -> Photographs:
    """Draw eyes with more bleedings and exudates the higher the grade; no real eye, no clinical meaning."""
    rng = np.random.default_rng(seed)
    grades = [int(g) for g in rng.choice(5, size=count, p=[0.4, 0.15, 0.2, 0.15, 0.1])]
    return Photographs([_draw_phantom(g, size, rng) for g in grades], grades, "PHANTOM EYES", phantom=True)


def _draw_phantom(grade: int, size: int, rng: np.random.Generator) -> np.ndarray:
    centre, radius = size / 2, size * 0.46
    picture = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(picture)
    tint = rng.integers(-25, 25, 3)
    draw.ellipse([centre - radius] * 2 + [centre + radius] * 2, fill=tuple(np.add((190, 95, 45), tint)))
    side = rng.choice([-1, 1])
    disc_x = centre + side * radius * 0.45
    for angle in rng.uniform(0, 2 * np.pi, 9):
        end = (disc_x + np.cos(angle) * radius * 0.9, centre + np.sin(angle) * radius * 0.9)
        draw.line([(disc_x, centre), end], fill=(120, 35, 25), width=max(1, size // 90))
    for _ in range(grade * 9):
        angle, far = rng.uniform(0, 2 * np.pi), radius * 0.85 * np.sqrt(rng.uniform())
        x, y, r = centre + far * np.cos(angle), centre + far * np.sin(angle), rng.uniform(0.008, 0.02) * size
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(85, 15, 15) if rng.uniform() < 0.6 else (225, 190, 110))
    spot = radius * 0.16
    draw.ellipse([disc_x - spot, centre - spot, disc_x + spot, centre + spot], fill=(240, 200, 130))
    outside = Image.new("L", (size, size), 255)
    ImageDraw.Draw(outside).ellipse([centre - radius] * 2 + [centre + radius] * 2, fill=0)
    picture.paste((0, 0, 0), mask=outside)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(size / 140)))
