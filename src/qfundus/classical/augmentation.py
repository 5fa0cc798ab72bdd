"""Show photographs as they might have been taken: turned, mirrored, nearer, brighter."""

import math

import numpy as np
import torch
from torch.nn import functional

from qfundus.recipes.network import Augmentation


def augment(images: torch.Tensor, keys: list[tuple[int, ...]], augmentation: Augmentation) -> torch.Tensor:
    """Change photographs `(batch, side, side, 3)` of uint8; return as many, as large.

    What happens to one is decided by its key alone, whatever batch and process it is in.
    """
    drawn = torch.from_numpy(np.stack([np.random.default_rng(key).random(11) for key in keys])).float()
    picture = images.permute(0, 3, 1, 2).float()
    moved = functional.grid_sample(
        picture,
        functional.affine_grid(_moves(drawn, augmentation), list(picture.shape), align_corners=False),
        align_corners=False,
    )
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    centred = 2 * drawn - 1
    contrast = 1 + augmentation.contrast * centred[:, 5, None, None, None]
    light = (
        1 + augmentation.brightness * centred[:, 6, None, None, None] + augmentation.tint * centred[:, 7:10, None, None]
    )
    changed = ((moved - mean) * contrast + mean) * light
    # A quarter of the bytes to hand over to another process, and to a GPU.
    return changed.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _moves(drawn: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Return affine matrices `(batch, 2, 3)` from numbers in 0-1 `(batch, 11)`."""
    angle = drawn[:, 0] * (2 * math.pi if augmentation.rotate else 0.0)
    mirror = torch.where(drawn[:, 1] < 0.5, -1.0, 1.0) if augmentation.flip else torch.ones(len(drawn))
    scale = 1 + augmentation.zoom * (2 * drawn[:, 2] - 1)
    shift = 2 * augmentation.shift * (2 * drawn[:, 3:5] - 1)
    turned = torch.stack([angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()], dim=1).view(-1, 2, 2)
    return torch.cat([turned * scale[:, None, None], shift[:, :, None]], dim=2)
