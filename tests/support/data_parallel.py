"""What two processes do side by side, as DistributedDataParallel lets them."""

from pathlib import Path

import numpy as np
import torch
from circuits import random_angles
from ranks import Ranks
from torch.nn.parallel import DistributedDataParallel
from trainings import make_recipe

from qfundus.classical.engine import open_engine
from qfundus.classical.loader import Batch
from qfundus.classical.network import Network
from qfundus.classical.parallel import joined_processes
from qfundus.quantum.ansatz import chain_ansatz
from qfundus.quantum.layer import QuantumLayer

BATCH, QUBITS = 6, 5


def make_layer(method: str) -> QuantumLayer:
    torch.manual_seed(0)
    return QuantumLayer(chain_ansatz(QUBITS, 1), method=method)


def gradient_of(layer: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the mean over a batch by the circuit's weights."""
    layer(features).mean().backward()
    return getattr(layer, "module", layer).weight.grad


def differentiate_in_two(folder: Path, method: str) -> list[torch.Tensor]:
    """Return the gradient that each of two processes holds after it has exchanged its own with the other."""
    assert Ranks(_differentiate, (folder, method), 2, folder / "output.log").wait() == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _differentiate(folder: Path, method: str) -> None:
    with joined_processes() as layout:
        half = random_angles(BATCH, QUBITS).float().chunk(2)[layout.rank]
        # Its reducer must be gone before the group of processes is, or that may wait for ever: no name holds it.
        gradient = gradient_of(DistributedDataParallel(make_layer(method)), half).clone()
        torch.save(gradient, folder / f"{layout.rank}.pt")


def agree_on_statistics(strategy: str) -> None:
    """Take a step on batches of its own, and fail if another process then predicts otherwise."""
    with joined_processes() as layout:
        recipe = make_recipe(training__strategy=strategy, network__batch_norm="own")
        network = Network(recipe.network, recipe.images.side)
        grades = np.arange(16) % 5
        engine = open_engine(network, recipe.training, grades, layout, 2, 0)
        own = torch.Generator().manual_seed(layout.rank)
        images = torch.randint(0, 256, (8, 32, 32, 3), generator=own, dtype=torch.uint8)
        engine.step([Batch(images, torch.from_numpy(grades[:8]), torch.ones(8), tuple(range(8)))])
        predicted = engine.predict(torch.full((4, 32, 32, 3), 99, dtype=torch.uint8))
        both = layout.gather(predicted[None])
        assert torch.equal(both[0], both[1]), (both[0] - both[1]).abs().max()
