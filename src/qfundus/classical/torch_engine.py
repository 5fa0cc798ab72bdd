"""Steps by torch: alone, by DDP, or by FSDP2."""

import contextlib
import math
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as sharded
from torch.nn.parallel import DistributedDataParallel

from qfundus.classical import checkpoints
from qfundus.classical.averaging import Average, average_over_processes, statistics_of
from qfundus.classical.loader import Batch
from qfundus.classical.objective import Objective
from qfundus.classical.optimiser import open_optimiser, open_schedule
from qfundus.classical.parallel import Layout
from qfundus.classical.precision import TYPES
from qfundus.classical.step import Step, seed_of_step
from qfundus.recipes.network import NetworkTraining

_SMALLEST_SCALE = 1.0  # of float16's gradients: below it is not their size that makes them no numbers


class TorchEngine:
    """Steps by torch: alone, by DDP (arXiv 2006.15704), or FSDP2, which cuts every weight among the processes."""

    def __init__(
        self, network: nn.Module, training: NetworkTraining, objective: Objective, layout: Layout, steps: int, seed: int
    ) -> None:
        self.training, self.objective, self.layout, self.seed = training, objective, layout, seed
        self.taken = 0
        self.network = network.to(layout.device)
        self.model = self._wrap()
        self.optimiser = open_optimiser(self.network, training)
        self.schedule = open_schedule(self.optimiser, training, steps)
        self.scaler = torch.amp.GradScaler(layout.device.type, enabled=training.precision == "float16")
        self.average = Average(self.network, training.ema) if training.ema else None

    def step(self, pieces: Sequence[Batch]) -> Step:
        """Take a step."""
        self.model.train()
        # From the position alone: so a run that goes on draws what the one that never stopped would have drawn.
        torch.manual_seed(seed_of_step(self.seed, self.taken, self.layout.rank))
        share = len(pieces) * len(pieces[0].rows)
        summed = torch.zeros((), device=self.layout.device)
        for number, piece in enumerate(pieces):
            with self._synchronising(last=number == len(pieces) - 1), self._in_precision():
                here = piece.to(self.layout.device)
                losses = self.objective(self.model(here.inputs), here.grades) * here.weights
                # Processes average their gradients: each divides by its own share.
                self.scaler.scale(losses.sum() / share).backward()
            summed += losses.detach().sum()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.training.clip)
        rate = float(self.optimiser.param_groups[0]["lr"])
        # Asked for at once: a GPU has run dry by the time that it has answered.
        totals, gradient = torch.stack((summed, _whole(norm))).tolist()
        loss, count = self.layout.total(totals, sum(float(piece.weights.sum()) for piece in pieces))
        # Else the weights stay what they were, for a person to look at; a scaler passes over it by itself.
        moves = math.isfinite(loss) and math.isfinite(gradient)
        if moves or (math.isfinite(loss) and self.scaler.is_enabled()):
            self.scaler.step(self.optimiser)
            self.scaler.update()
        if moves:
            self.schedule.step()
            if self.average:
                self.average.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.taken += 1
        passed_over = not moves and self.scaler.is_enabled() and self.scaler.get_scale() > _SMALLEST_SCALE
        return Step(loss / max(count, 1), gradient, rate, int(count), passed_over)

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        self.model.eval()
        self._agree()
        with self._averaged(), torch.no_grad(), self._in_precision():
            return self.model(inputs.to(self.layout.device)).float().cpu()

    def save(self, folder: str) -> "Future[None]":
        """Write shards while training goes on."""
        self._agree()
        return checkpoints.save_shards(self._state(), folder, self.layout)

    def load(self, folder: str) -> None:
        """Read shards, cut for this number of processes."""
        state = self._state()
        checkpoints.load_shards(state, folder)
        sharded.set_state_dict(
            self.network, self.optimiser, model_state_dict=state["network"], optim_state_dict=state["optimiser"]
        )
        self.taken = int(state["taken"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights."""
        self._agree()
        options = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
        with self._averaged():
            state = sharded.get_model_state_dict(self.network, options=options)
            return {name: cast("torch.Tensor", value).clone() for name, value in state.items()}

    def _wrap(self) -> nn.Module:
        if self.layout.world == 1:
            return self.network
        if self.training.strategy == "ddp":
            return DistributedDataParallel(self.network, broadcast_buffers=False, gradient_as_bucket_view=True)
        return shard_fully(self.network, self.layout)

    def _synchronising(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let the processes exchange gradients after the last piece of a step only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        if self.layout.world > 1 and self.training.strategy == "fsdp2":
            cast("Any", self.model).set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def _in_precision(self) -> contextlib.AbstractContextManager[Any]:
        kind = TYPES[self.training.precision]
        return torch.autocast(self.layout.device.type, kind, enabled=kind is not torch.float32)

    def _averaged(self) -> contextlib.AbstractContextManager[Any]:
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def _agree(self) -> None:
        statistics = statistics_of(self.network)
        average_over_processes(
            [*statistics.values(), *(self.average.shadow[name] for name in statistics if self.average)], self.layout
        )

    def _state(self) -> dict[str, Any]:
        network, optimiser = sharded.get_state_dict(self.network, self.optimiser)
        return {
            "network": network,
            "optimiser": optimiser,
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.shadow if self.average else {},
            "taken": self.taken,
        }


def shard_fully(network: nn.Module, layout: Layout) -> nn.Module:
    """Cut each large part's weights among the processes, and the rest with the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(layout.device.type, (layout.world,))
    for part in network.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh)
    return cast("nn.Module", fully_shard(network, mesh=mesh))


def _whole(norm: Any) -> Any:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
