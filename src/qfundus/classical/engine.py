"""Take a training step, on one process or many: alone, by DDP, FSDP2, or DeepSpeed's ZeRO.

Every strategy takes the same steps. A step's loss is summed over all its photographs and divided by their number,
whatever process and piece they are in.
"""

import numpy as np
from torch import nn

from qfundus.classical.objective import Objective
from qfundus.classical.parallel import Layout
from qfundus.classical.precision import keep_depthwise_whole
from qfundus.classical.step import Engine
from qfundus.classical.torch_engine import TorchEngine
from qfundus.classical.zero_engine import ZeroEngine
from qfundus.recipes.network import NetworkTraining


def open_engine(
    network: nn.Module, training: NetworkTraining, grades: np.ndarray, layout: Layout, steps: int, seed: int
) -> Engine:
    """Choose the engine by the recipe's strategy; `steps` is how many an epoch has."""
    kind = ZeroEngine if training.strategy.startswith("zero") else TorchEngine
    if training.precision == "bfloat16" and layout.device.type == "cpu":
        keep_depthwise_whole(network)
    return kind(network, training, Objective(training, grades, layout.device), layout, steps, seed)
