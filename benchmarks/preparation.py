"""Draw what the preparations of a recipe do to a photograph: docs/figures/preparation.png.

    .venv/bin/python -m benchmarks.preparation PHOTOGRAPH [--to FILE]

The figure in docs/ is of Image_01L of CHASE_DB1 (Kingston University, CC BY 4.0).
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from qfundus.imaging.disc import find_disc
from qfundus.imaging.enhance import even_illumination, stretch_contrast
from qfundus.imaging.normalise import crop_disc

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "preparation.png"
SIDE = 320


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--to", type=Path, default=FIGURE)
    asked = parser.parse_args()
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    pixels = np.asarray(Image.open(asked.photograph).convert("RGB"))
    disc = crop_disc(pixels, find_disc(pixels), SIDE)
    shown = {
        "as it came": pixels,
        "disc": disc,
        "disc, illumination": even_illumination(disc),
        "disc, contrast": stretch_contrast(disc),
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.3), layout="constrained")
    for axis, (name, picture) in zip(axes, shown.items(), strict=True):
        axis.imshow(picture)
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(asked.to, dpi=90)


if __name__ == "__main__":
    main()
