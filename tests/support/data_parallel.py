"""Two processes that each differentiate a circuit on half a batch, as DistributedDataParallel lets them."""

from pathlib import Path

import torch
from circuits import random_angles
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

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


def _differentiate(rank: int, folder: str, method: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = random_angles(BATCH, QUBITS).float().chunk(2)[rank]
    # Its reducer must be gone before the group of processes is, or that may wait for ever: no name holds it.
    gradient = gradient_of(DistributedDataParallel(make_layer(method)), half).clone()
    torch.save(gradient, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def differentiate_in_two(folder: Path, method: str) -> list[torch.Tensor]:
    """Return the gradient that each of two processes holds after it has exchanged its own with the other."""
    spawn(_differentiate, (str(folder), method), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
