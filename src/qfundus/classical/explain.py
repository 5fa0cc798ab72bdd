"""Show where on a photograph a grade comes from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from qfundus.classical.calibration import load_network
from qfundus.classical.evaluate import prepare_whole
from qfundus.classical.grader import open_grader
from qfundus.classical.job import TrainingJob
from qfundus.errors import SetupError
from qfundus.imaging.labelled import UNREADABLE, read_file

PICTURES = "*-grade-*.png"
_STEPS, _BLUR, _LARGEST, _UNLIT = 24, 0.03, 0.98, 12
_SHOWN = 512  # pixels of a picture's side


def explain_photograph(networks: list[nn.Module], image: np.ndarray, grade: int) -> np.ndarray:
    """Return how much each pixel speaks for a grade, `(side, side)`: of `image` `(side, side, 3)` of uint8.

    Integrated gradients (M. Sundararajan et al., arXiv 1703.01365) of the grade's log-likelihood, from the photograph's
    mean colour to the photograph, averaged over the networks, each as it was before it was calibrated.
    """
    from captum.attr import IntegratedGradients

    pixels = torch.from_numpy(image.copy()).float()[None]
    start = pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)
    predicted = [
        IntegratedGradients(_likelihood(network)).attribute(
            pixels, start, target=grade, n_steps=_STEPS, internal_batch_size=8
        )
        for network in networks
    ]
    return torch.stack(predicted).mean(dim=0)[0].sum(dim=2).detach().numpy()


def draw_overlay(image: np.ndarray, attribution: np.ndarray) -> Image.Image:
    """Lay what speaks for the grade over the photograph in red, and what speaks against it in blue.

    The photograph is drawn in grey, for a fundus is red itself; the black around it says nothing.
    """
    lit = image.max(axis=2, keepdims=True) > _UNLIT
    image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    smooth = ndimage.gaussian_filter(attribution, _BLUR * len(image))
    scale = np.quantile(np.abs(smooth), _LARGEST) + 1e-12
    share = np.clip(smooth / scale, -1, 1)[..., None]
    colour = np.where(share > 0, [255.0, 0.0, 0.0], [0.0, 80.0, 255.0])
    strength = 0.6 * np.abs(share) * lit
    mixed = (1 - strength) * image + strength * colour
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    return picture.resize((_SHOWN, _SHOWN), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Explained:
    """The overlay of a photograph, its grade and probability, whether a person should look, and a disc was found."""

    picture: Path
    grade: int
    probability: float
    referred: bool
    disc: bool


def explain_files(folder: Path, photographs: list[Path], to: Path) -> list[Explained]:
    """Grade photographs and write an overlay of each.

    Raises:
        SetupError: if the grader's networks are not there, a photograph cannot be read, or `to` holds pictures.
    """
    if to.is_file():
        raise SetupError(f"{to} is a file: name a folder for --to.")
    if any(to.glob(PICTURES)):
        raise SetupError(f"{to} already contains pictures of an earlier run: choose an empty folder.")
    grader = open_grader(str(folder))
    networks = load_networks(folder)
    read = [_read(file, number) for number, file in enumerate(photographs, 1)]  # all, before anything is written
    to.mkdir(parents=True, exist_ok=True)
    written: list[Explained] = []
    for number, pixels in enumerate(read, 1):
        image, disc = prepare_whole(pixels, grader.card.images)
        (probabilities,) = predicted = grader.grade(image[None])
        grade = int(probabilities.argmax())
        picture = to / f"{number:03d}-grade-{grade}.png"
        draw_overlay(image, explain_photograph(networks, image, grade)).save(picture)
        referred = bool(grader.refers(predicted)[0])
        written.append(Explained(picture, grade, float(probabilities[grade]), referred, disc))
    return written


def load_networks(folder: Path) -> list[nn.Module]:
    """Read the networks that a grader was put together from."""
    jobs = sorted((folder / "networks").glob("*/job.json"))
    if not jobs:
        raise SetupError(f"{folder} holds no networks: an explanation needs their weights, not the graph alone.")
    # Where the folder lies now, which may not be where it was trained.
    return [load_network(replace(TrainingJob.from_json(job.read_text()), folder=str(job.parent))) for job in jobs]


def _likelihood(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: network(images).log_softmax(dim=1)


def _read(file: Path, number: int) -> np.ndarray:
    try:
        return read_file(file)
    except UNREADABLE:
        # The file's name may hold a person's: it is called by its place.
        raise SetupError(f"Photograph {number} cannot be read: give .jpg, .png or .tif files of 8 bits.") from None
