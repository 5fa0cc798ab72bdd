"""Take a training step, on one process or many: DDP, FSDP2, or DeepSpeed's ZeRO.

Every strategy takes the same steps. A step's loss is summed over all its photographs and divided by their number,
whatever process and piece they are in.
"""

import contextlib
import math
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import distributed, nn
from torch._C._distributed_c10d import TCPStore
from torch.distributed.checkpoint import state_dict as sharded
from torch.nn.parallel import DistributedDataParallel

from qfundus.classical import checkpoints
from qfundus.classical.loader import Batch
from qfundus.classical.parallel import Layout
from qfundus.classical.precision import TYPES, keep_depthwise_whole
from qfundus.classical.recipe import Fitting
from qfundus.errors import TrainingError
from qfundus.grades import GRADES

_PROCESSES = "processes"  # how many wrote a checkpoint of DeepSpeed's
_SMALLEST_SCALE = 1.0  # of float16's gradients: below it is not their size that makes them no numbers


@dataclass(frozen=True)
class Step:
    """What one step came to; `gradient` is the norm before it is clipped.

    A gradient that is no number is `passed_over` where float16's scaler has still to find its scale.
    """

    loss: float
    gradient: float
    rate: float
    photographs: int
    passed_over: bool = False


class Objective:
    """The loss of each photograph, by soft targets and weights that a recipe asks for."""

    def __init__(self, how: Fitting, grades: np.ndarray, device: torch.device) -> None:
        self.of = {"likelihood": likelihood_loss, "ranks": rank_loss}[how.loss]
        self.targets = soft_targets(how.soften, how.label_smoothing).to(device)
        self.weights = grade_weights(grades, how.balance).to(device)

    def __call__(self, logits: torch.Tensor, grades: torch.Tensor) -> torch.Tensor:
        """Return losses `(batch,)` of logits `(batch, 5)`."""
        return self.of(logits.float().log_softmax(dim=1), self.targets[grades]) * self.weights[grades]


def likelihood_loss(told: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy `(batch,)` of log-likelihoods and targets `(batch, 5)`."""
    return -(targets * told).sum(dim=1)


def rank_loss(told: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropies of "this grade or worse", summed over the grades, `(batch,)`.

    CORAL's loss (W. Cao et al., arXiv 1901.07884), on any log-likelihoods and targets `(batch, 5)`: a grade that is far
    off costs more than its neighbour.
    """
    worse = told.flip(1).logcumsumexp(dim=1).flip(1)[:, 1:]
    better = told.logcumsumexp(dim=1)[:, :-1]
    wanted = targets.flip(1).cumsum(dim=1).flip(1)[:, 1:]
    return -(wanted * worse + (1 - wanted) * better).sum(dim=1)


def soft_targets(soften: float, smoothing: float) -> torch.Tensor:
    """Return each grade's target, `(5, 5)`: a bell of width `soften`, then a share of `smoothing` to all."""
    apart = torch.arange(GRADES).float()[:, None] - torch.arange(GRADES).float()
    bell = torch.exp(-(apart**2) / (2 * soften**2)) if soften else torch.eye(GRADES)
    return (1 - smoothing) * bell / bell.sum(dim=1, keepdim=True) + smoothing / GRADES


def grade_weights(grades: np.ndarray, balance: float) -> torch.Tensor:
    """Weigh grades by their rarity to the power of `balance`, `(5,)`, so that a photograph's mean weight is one."""
    counts = np.bincount(grades, minlength=GRADES).astype(np.float64)
    weights = counts.clip(min=1) ** -balance  # a grade without photographs counts in no mean
    return torch.from_numpy(weights / (weights * counts).sum() * counts.sum()).float()


class Engine(checkpoints.Kept, Protocol):
    """Takes steps, and keeps and restores all that the next one depends on."""

    layout: Layout

    def step(self, pieces: Sequence[Batch]) -> Step:
        """Take a step on the pieces of this process."""
        ...

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(batch, 5)` by the averaged weights, where there is an average."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights on the CPU, averaged where there is an average; every process must ask."""
        ...


def open_engine(network: nn.Module, how: Fitting, grades: np.ndarray, layout: Layout, steps: int, seed: int) -> Engine:
    """Choose the engine by the recipe's strategy; `steps` is how many an epoch has."""
    kind = ZeroEngine if how.strategy.startswith("zero") else TorchEngine
    if how.precision == "bfloat16" and layout.device.type == "cpu":
        keep_depthwise_whole(network)
    return kind(network, how, Objective(how, grades, layout.device), layout, steps, seed)


class TorchEngine:
    """Steps by torch: alone, by DDP (arXiv 2006.15704), or FSDP2, which cuts every weight among the processes."""

    def __init__(
        self, network: nn.Module, how: Fitting, objective: Objective, layout: Layout, steps: int, seed: int
    ) -> None:
        self.how, self.objective, self.layout, self.seed = how, objective, layout, seed
        self.taken = 0
        self.network = network.to(layout.device)
        self.model = self._wrap()
        self.optimiser = open_optimiser(self.network, how)
        self.schedule = open_schedule(self.optimiser, how, steps)
        self.scaler = torch.amp.GradScaler(layout.device.type, enabled=how.precision == "float16")
        self.average = Average(self.network, how.ema) if how.ema else None

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
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.how.clip)
        rate = float(self.optimiser.param_groups[0]["lr"])
        # Asked for at once: a GPU has run dry by the time that it has answered.
        told, gradient = torch.stack((summed, _whole(norm))).tolist()
        loss, count = self.layout.total(told, sum(float(piece.weights.sum()) for piece in pieces))
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
            said = sharded.get_model_state_dict(self.network, options=options)
            return {name: cast("torch.Tensor", value).clone() for name, value in said.items()}

    def _wrap(self) -> nn.Module:
        if self.layout.world == 1:
            return self.network
        if self.how.strategy == "ddp":
            return DistributedDataParallel(self.network, broadcast_buffers=False, gradient_as_bucket_view=True)
        return shard_fully(self.network, self.layout)

    def _synchronising(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let the processes exchange gradients after the last piece of a step only."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        if self.layout.world > 1 and self.how.strategy == "fsdp2":
            cast("Any", self.model).set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def _in_precision(self) -> contextlib.AbstractContextManager[Any]:
        kind = TYPES[self.how.precision]
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


class ZeroEngine:
    """Steps by DeepSpeed, which cuts optimiser (1), gradients (2), weights (3) among processes (arXiv 1910.02054)."""

    def __init__(
        self, network: nn.Module, how: Fitting, objective: Objective, layout: Layout, steps: int, seed: int
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
        self.how, self.objective, self.layout, self.seed = how, objective, layout, seed
        self.taken = 0
        self.network = network
        self.engine, _, _, self.schedule = deepspeed.initialize(
            model=network.to(layout.device),
            optimizer=open_optimiser(network, how),
            lr_scheduler=cast("Any", lambda inner: open_schedule(inner, how, steps)),
            config=zero_settings(how, layout.world),
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
            loss, count = self.layout.total(summed, sum(float(one.weights.sum()) for one in pieces))
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
            TrainingError: where another number of processes wrote them.
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
        with deepspeed.zero.GatheredParameters(list(self.network.parameters()), enabled=self.how.strategy == "zero3"):
            return {name: value.detach().float().cpu().clone() for name, value in self.network.state_dict().items()}

    def _agree(self) -> None:
        average_over_processes(list(statistics_of(self.network).values()), self.layout)


def statistics_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the statistics of batches that a network keeps, by name."""
    return {name: value for name, value in network.named_buffers() if value.is_floating_point()}


def average_over_processes(values: Sequence[torch.Tensor], layout: Layout) -> None:
    """Average tensors in place: of statistics each process has seen its own share."""
    if layout.world == 1 or not values:
        return
    joined = torch.cat([value.flatten() for value in values])
    distributed.all_reduce(joined)
    joined /= layout.world
    for value, agreed in zip(values, joined.split([value.numel() for value in values]), strict=True):
        value.copy_(agreed.view_as(value))


class Average:
    """An exponential moving average of the weights, which begins fast: the decay is at most (1 + n) / (10 + n)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = torch.zeros(())
        self.live = dict(_learned(network))
        self.shadow: dict[str, Any] = {name: value.detach().clone() for name, value in self.live.items()}
        self.shadow["updates"] = self.updates

    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        n = float(self.updates)
        decay = min(self.decay, (1 + n) / (10 + n))
        for name, value in self.live.items():
            self.shadow[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Put the average into the network, for a while."""
        kept = {name: value.detach().clone() for name, value in self.live.items()}
        self._put(self.shadow)
        try:
            yield
        finally:
            self._put(kept)

    def load(self, state: dict[str, Any]) -> None:
        """Take over an average."""
        for name, value in state.items():
            self.shadow[name].copy_(value)

    def _put(self, values: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.live.items():
                value.copy_(values[name])


def _learned(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from ((name, value) for name, value in network.named_buffers() if value.is_floating_point())


def open_optimiser(network: nn.Module, how: Fitting) -> torch.optim.Optimizer:
    """Return AdamW (arXiv 1711.05101) in its fused form, which takes a third of the time of torch's default."""
    return torch.optim.AdamW(parameter_groups(network, how.weight_decay), lr=how.learning_rate, fused=True)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Let weights decay, and neither biases nor the scales of normalisation."""
    learned = [value for value in network.parameters() if value.requires_grad]
    return [
        {"params": [value for value in learned if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in learned if value.ndim <= 1], "weight_decay": 0.0},
    ]


def open_schedule(optimiser: torch.optim.Optimizer, how: Fitting, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warm up in a line, then stay or fall as a cosine to nought at the last step (arXiv 1608.03983)."""
    warm, whole = how.warm_up * steps, how.epochs * steps

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if how.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(whole - warm, 1))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, share)


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


def zero_settings(how: Fitting, world: int) -> dict[str, Any]:
    """Write a recipe in DeepSpeed's words."""
    stage = int(how.strategy.removeprefix("zero"))
    elsewhere = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    offload = {"offload_optimizer": elsewhere} | ({"offload_param": elsewhere} if stage == 3 else {})
    piece = max(1, how.batch // (world * how.accumulate))
    return {
        "train_micro_batch_size_per_gpu": piece,
        "gradient_accumulation_steps": how.accumulate,
        "gradient_clipping": how.clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, **(offload if how.offload else {})},
        # Weights stay float32, as with the other strategies.
        "torch_autocast": {"enabled": how.precision == "bfloat16", "dtype": "bfloat16"},
        "steps_per_print": 1 << 30,
    }


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Name the random numbers of one step of one process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def _whole(norm: Any) -> Any:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
