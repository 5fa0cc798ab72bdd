"""Lower precision than float32, and what stays out of it."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def keep_depthwise_whole(network: nn.Module) -> None:
    """Let convolutions within channels compute in float32, in place: CPUs take several times as long in bfloat16."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1:
            cast("Any", part).forward = _in_float32(part.forward)


def _in_float32(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def whole(inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(inputs.float())

    return whole
