"""Steps by DeepSpeed's ZeRO."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed, nn
from torch._C._distributed_c10d import TCPStore

from qfundus.classical import checkpoints
from qfundus.classical.averaging import average_over_processes, statistics_of
from qfundus.classical.loader import Batch
from qfundus.classical.objective import Objective
from qfundus.classical.optimiser import open_optimiser, open_schedule
from qfundus.classical.parallel import Layout
from qfundus.classical.step import Step, seed_of_step
from qfundus.errors import TrainingError
from qfundus.recipes.network import NetworkTraining

_PROCESSES = "processes"  # how many wrote a checkpoint of DeepSpeed's


class ZeroEngine:
    """Steps by DeepSpeed, which cuts optimiser (1), gradients (2), weights (3) among processes (arXiv 1910.02054)."""

    def __init__(
        self, network: nn.Module, training: NetworkTraining, objective: Objective, layout: Layout, steps: int, seed: int
    ) -> None:
        if layout.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("DS_LOG_LEVEL", "warning")
        import deepspeed

        # Else it compiles, where there is a compiler, a way of its own to talk beside gloo: half a minute at each start
        # in a new home, and code that nobody has locked.
        cast("Any", deepspeed.ops).__compatible_ops__["deepspeed_shm_comm"] = False
        if layout.world == 1:
            os.environ.setdefault("LOCAL_RANK", "0")
        if layout.world == 1 and not distributed.is_initialized():
            # DeepSpeed has no way without a group; one process makes one of itself.
            store = TCPStore("127.0.0.1", 0, world_size=1, is_master=True)
            distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        self.training, self.objective, self.layout, self.seed = training, objective, layout, seed
        self.taken = 0
        self.network = network
        self.engine, _, _, self.schedule = deepspeed.initialize(
            model=network.to(layout.device),
            optimizer=open_optimiser(network, training),
            lr_scheduler=cast("Any", lambda inner: open_schedule(inner, training, steps)),
            config=zero_settings(training, layout.world),
            dist_init_required=False,
        )

    def step(self, pieces: Sequence[Batch]) -> Step:
        """Take a step."""
        self.engine.train()
        torch.manual_seed(seed_of_step(self.seed, self.taken, self.layout.rank))
        share = len(pieces[0].rows)  # DeepSpeed divides by the number of pieces itself
        summed, loss, count, rate = 0.0, 0.0, 0.0, float(self.engine.get_lr()[0])
        for piece in pieces:
            here = piece.to(self.layout.device)
            losses = self.objective(self.engine(here.inputs), here.grades) * here.weights
            self.engine.backward(losses.sum() / share)
            summed += float(losses.detach().sum())
            loss, count = self.layout.total(summed, sum(float(piece.weights.sum()) for piece in pieces))
            if not math.isfinite(loss):
                break
            self.engine.step()
        self.taken += 1
        norm = self.engine.get_global_grad_norm()
        return Step(loss / max(count, 1), float(norm or 0.0), rate, int(count))

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        self.engine.eval()
        self._agree()
        with torch.no_grad():
            return self.engine(inputs.to(self.layout.device)).float().cpu()

    def save(self, folder: str) -> None:
        """Write DeepSpeed's own files."""
        self._agree()
        with checkpoints.local_copy(folder, self.layout) as local:
            self.engine.save_checkpoint(local, tag="zero", client_state={"taken": self.taken})
            if self.layout.leads:
                (Path(local) / _PROCESSES).write_text(str(self.layout.world))

    def load(self, folder: str) -> None:
        """Read DeepSpeed's own files.

        Raises:
            TrainingError: if another number of processes wrote them.
        """
        with checkpoints.local_copy(folder, self.layout, read=True) as local:
            wrote = int((Path(local) / _PROCESSES).read_text())
            if wrote != self.layout.world:
                raise TrainingError(
                    f"{folder} was written by {wrote} processes, and DeepSpeed's files need as many: start "
                    f"{wrote}, or begin anew in another folder with `strategy: fsdp2`, which goes on with any number."
                )
            _, client = self.engine.load_checkpoint(local, tag="zero")
        self.taken = int(cast("dict[str, int]", client)["taken"])

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights."""
        import deepspeed

        self._agree()
        with deepspeed.zero.GatheredParameters(
            list(self.network.parameters()), enabled=self.training.strategy == "zero3"
        ):
            return {name: value.detach().float().cpu().clone() for name, value in self.network.state_dict().items()}

    def _agree(self) -> None:
        average_over_processes(list(statistics_of(self.network).values()), self.layout)


def zero_settings(training: NetworkTraining, world: int) -> dict[str, Any]:
    """Write a recipe in DeepSpeed's words."""
    stage = int(training.strategy.removeprefix("zero"))
    elsewhere = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    offload = {"offload_optimizer": elsewhere} | ({"offload_param": elsewhere} if stage == 3 else {})
    piece = max(1, training.batch // (world * training.accumulate))
    return {
        "train_micro_batch_size_per_gpu": piece,
        "gradient_accumulation_steps": training.accumulate,
        "gradient_clipping": training.clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, **(offload if training.offload else {})},
        # Weights stay float32, as with the other strategies.
        "torch_autocast": {"enabled": training.precision == "bfloat16", "dtype": "bfloat16"},
        "steps_per_print": 1 << 30,
    }
