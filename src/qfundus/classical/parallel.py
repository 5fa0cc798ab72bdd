"""The processes that train together: one alone, or those that torchrun or a TrainJob started."""

import os
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import distributed


@dataclass(frozen=True)
class Layout:
    """Which of how many processes this is, and where it computes; `writers` talk of checkpoints alone."""

    rank: int
    world: int
    device: torch.device
    writers: distributed.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sum numbers over all processes."""
        if self.world == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(totals)
        return totals.tolist()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Put the rows of all processes one after another, by rank."""
        if self.world == 1:
            return rows
        gathered: list[torch.Tensor] = [rows] * self.world
        distributed.all_gather_object(gathered, rows.cpu())
        return torch.cat(gathered)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined_processes() -> Generator[Layout]:
    """Join those that torchrun started together, over NCCL on GPUs and gloo on CPUs; alone where it started none.

    No model that exchanges gradients may outlive it, in an error's traceback neither: its destructor would end the
    group while it holds the interpreter's lock, for which the group's thread may wait.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Layout(0, 1, device)
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    # Checkpoints are agreed on while training goes on: in one group, the talk of both would get mixed up.
    writers = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo"))
    try:
        yield Layout(distributed.get_rank(), distributed.get_world_size(), device, writers)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        distributed.destroy_process_group()
