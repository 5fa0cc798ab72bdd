"""What training costs over a bare loop, what two processes bring over one, and what int8 brings over float32.

    .venv/bin/python -m benchmarks.training [overhead] [precision] [scaling] [variants] [gpu] [--steps N]

EfficientNet-Lite0 on drawn eyes. The bare loop is torch alone on the same network and batches already in memory; the
house's loads, decodes and augments, takes its steps by the same engine as ever, and tells a log. Rounds of both
alternate and medians are compared, for a machine's speed changes with its neighbours. On a GPU, photographs a second
are told, too, and what precision brings.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from qfundus.classical.engine import open_engine
from qfundus.classical.ensemble import NetworkEnsemble
from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import command, environment, usable_cpus
from qfundus.classical.loader import Order, ShardDataset, load_steps
from qfundus.classical.monitor import Watch
from qfundus.classical.network import Network
from qfundus.classical.objective import Objective
from qfundus.classical.optimiser import open_optimiser, open_schedule
from qfundus.classical.parallel import Layout
from qfundus.classical.shards import prepare, read_table, write_shards
from qfundus.classical.storage_folder import StorageFolder
from qfundus.classical.trackers import LogFile
from qfundus.grades import GRADES
from qfundus.hospital.photographs import draw_phantoms
from qfundus.imaging.labelled import Labelled
from qfundus.layout import network_recipes
from qfundus.onnx_graphs.export import export_module
from qfundus.onnx_graphs.quantise import write_dynamic, write_static
from qfundus.onnx_graphs.run import time_graphs
from qfundus.recipes.network import NetworkRecipe, find_network_recipe

NAMES = "overhead, precision, scaling, variants, gpu"
SIDE, BATCH, ROUNDS = 96, 32, 5
LARGE = 224  # pixels: what int8 and a GPU are for
ALONE = Layout(0, 1, torch.device("cpu"))


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{NAMES}; without any, all")
    parser.add_argument("--steps", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        benchmarks = {
            "overhead": lambda: overhead(place, asked.steps),
            "precision": lambda: precision(place),
            "scaling": lambda: scaling(place, asked.steps),
            "variants": lambda: variants(place),
            "gpu": lambda: on_gpu(place),
        }
        if unknown := set(asked.names) - benchmarks.keys():
            parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
        for name in asked.names or benchmarks:
            benchmarks[name]()


def recipe(side: int = SIDE, **fitting: object) -> NetworkRecipe:
    """Return what is trained."""
    how = {
        "epochs": 3,
        "patience": 9,
        "batch": BATCH,
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "final_weights": "last",
    }
    return NetworkRecipe.model_validate(
        {
            "name": "benchmark",
            "seed": 0,
            "images": {"side": side},
            "network": {},
            "augmentation": {},
            "training": how | fitting,
            "grading": {},
        }
    )


def write_eyes(folder: Path, how: NetworkRecipe, count: int) -> str:
    """Draw labelled eyes, a quarter of them more to hold out."""
    drawn = draw_phantoms(count + count // 4, how.images.side)
    eyes = (
        Labelled(f"{n}", grade, "train" if n < count else "val", "", lambda image=image: image)
        for n, (image, grade) in enumerate(zip(drawn.images, drawn.grades, strict=True))
    )
    shards = f"{folder}/eyes-{how.images.side}.lance"
    write_shards(eyes, how.images, shards)
    return shards


def overhead(folder: Path, steps: int) -> None:
    """Compare the house's loop with a bare one."""
    torch.set_num_threads(1)  # the loader has the other core
    how = recipe()
    found = compare_loops(how, ALONE, write_eyes(folder, how, BATCH * steps), folder, workers=1, rounds=9)
    spread = f"{found.ratios[0]:.3f} to {found.ratios[-1]:.3f} in {len(found.ratios)} rounds"
    print(f"our training loop takes {found.ratio:.3f} x a bare loop's time ({spread}), loading and augmenting in it")
    print(f"waiting for photographs: {found.waiting:.1%} of a step")


@dataclass(frozen=True)
class Compared:
    """The house's loop against a bare one."""

    ratios: list[float]  # of their times, one a round, sorted
    waiting: float  # of the house's time
    photographs_per_second: float

    @property
    def ratio(self) -> float:
        """The round's in the middle."""
        return statistics.median(self.ratios)


def compare_loops(
    how: NetworkRecipe,
    layout: Layout,
    shards: str,
    folder: Path,
    workers: int,
    *,
    rounds: int = ROUNDS,
    repeat: int = 1,
) -> Compared:
    """Train by both in turn, for `rounds`, each of which shows each photograph `repeat` times."""
    table = read_table(shards, how.images)
    rows = np.tile(np.flatnonzero(table.splits == "train"), repeat)
    order = Order(rows, how.training.batch, 0, layout)
    photographs = ShardDataset(shards, table.grades, 0, how.augmentation)
    engine = open_engine(Network(how.network, how.images.side), how.training, table.grades, layout, order.steps, 0)
    batches = [batch for (batch,) in islice(load_steps(photographs, order, workers), 8)]
    bare_loop = make_bare_loop(how, table.grades, order.steps, layout.device)
    bare_loop(batches)  # a GPU looks for its ways at first sight of a shape
    house: list[float] = []
    bare: list[float] = []
    with Watch([LogFile(StorageFolder(str(folder)))], order.steps, rounds) as watch:
        for epoch in range(rounds):
            steps = load_steps(photographs, replace(order, epoch=epoch, epochs=epoch + 1), workers)
            engine.step(next(steps))  # a training waits once for its first batch
            begun = time.perf_counter()
            for number, pieces in enumerate(watch.timed(steps), 1):
                watch.stepped(number, engine.step(pieces))
            house.append((time.perf_counter() - begun) / (order.steps - 1))
            begun = time.perf_counter()
            bare_loop(batches)
            bare.append((time.perf_counter() - begun) / len(batches))
        waiting = watch.total_waited / watch.total_seconds
    ratios = sorted(one / other for one, other in zip(house, bare, strict=True))
    return Compared(ratios, waiting, order.batch / statistics.median(house))


def precision(folder: Path) -> None:
    """Compare steps in bfloat16 with steps in float32, in turn, and with torch's own automatic precision."""
    torch.set_num_threads(1)
    shards = write_eyes(folder, recipe(), 4 * BATCH)
    table = read_table(shards, recipe().images)
    order = Order(np.flatnonzero(table.splits == "train"), BATCH, 0, ALONE)
    batches = list(load_steps(ShardDataset(shards, table.grades, 0, recipe().augmentation), order, 1))
    ways: dict[str, Callable[[], object]] = {}
    for kind in ("float32", "bfloat16"):
        how = recipe(precision=kind)
        engine = open_engine(Network(how.network, SIDE), how.training, table.grades, ALONE, order.steps, 0)
        ways[kind] = lambda engine=engine: [engine.step(pieces) for pieces in batches]
    bare = make_bare_loop(recipe(precision="bfloat16"), table.grades, order.steps, ALONE.device)
    ways["bfloat16 by torch alone"] = lambda: bare([batch for (batch,) in batches])
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - begun)
    for name in list(ways)[1:]:
        ratio = statistics.median(one / plain for one, plain in zip(taken[name], taken["float32"], strict=True))
        print(f"steps in {name} take {ratio:.2f} x float32's time, {SIDE} x {SIDE}, {BATCH} a step, on one core")


def make_bare_loop(how: NetworkRecipe, grades: np.ndarray, steps: int, device: torch.device):
    """Write the loop as one would without any of this."""
    network = Network(how.network, how.images.side).train().to(device)
    optimiser = open_optimiser(network, how.training)
    schedule = open_schedule(optimiser, how.training, steps)
    loss_of = Objective(how.training, grades, device)
    kind = getattr(torch, how.training.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=kind is torch.float16)

    def loop(batches: list) -> None:
        for batch in batches:
            here = batch.to(device)
            optimiser.zero_grad()
            with torch.autocast(device.type, kind, enabled=kind is not torch.float32):
                loss = loss_of(network(here.inputs), here.grades).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(network.parameters(), how.training.clip)
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            loss.item()

    return loop


def on_gpu(folder: Path) -> None:
    """Print how fast a GPU trains and grades, in each precision."""
    if not torch.cuda.is_available():
        print("there is no GPU: not measured")
        return
    layout, batch = Layout(0, 1, torch.device("cuda", 0)), 4 * BATCH
    shards = write_eyes(folder, recipe(LARGE), batch * 8)
    for precision in ("float32", "bfloat16", "float16"):
        how = recipe(LARGE, precision=precision, batch=batch)
        found = compare_loops(how, layout, shards, folder, workers=max(1, usable_cpus() - 2), rounds=1, repeat=16)
        print(
            f"{torch.cuda.get_device_name()} trains {found.photographs_per_second:.0f} photographs a second in "
            f"{precision}, {LARGE} x {LARGE}, {batch} a step; the loop takes {found.ratio:.3f} x a bare one's time, "
            f"and waits for photographs {found.waiting:.1%} of it"
        )
    plain = grade_on_gpu(torch.float32, layout.device)
    for kind in (torch.bfloat16, torch.float16):
        times = grade_on_gpu(kind, layout.device)
        said = ", ".join(f"{many} at once {plain[many] / times[many]:.2f} x as fast" for many in times)
        print(f"  {str(kind).removeprefix('torch.')} grades {said} as float32")


def grade_on_gpu(kind: torch.dtype, device: torch.device) -> dict[int, float]:
    """Return seconds by batch, as one graph of kernels: Python's own time is none of a server's."""
    network = Network(recipe().network, LARGE).eval().to(device)
    found: dict[int, float] = {}
    for many in (1, 16, 64):
        images = torch.randint(0, 256, (many, LARGE, LARGE, 3), device=device, dtype=torch.uint8)
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.inference_mode(), torch.autocast("cuda", kind, cache_enabled=False):
            with torch.cuda.stream(aside):
                for _ in range(3):
                    network(images)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                network(images)
        found[many] = min(_seconds(graph.replay) for _ in range(20))
    return found


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def scaling(folder: Path, steps: int) -> None:
    """Compare two processes on two cores with one on one core, and with two trainings that have nothing to exchange."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two processes need two cores: not measured")
        return
    shards = write_eyes(folder, recipe(), BATCH * steps)
    for batch in (4 * BATCH, BATCH):
        together: list[float] = []
        apart: list[float] = []
        for number in range(3):
            run = folder / f"{batch}-{number}"
            one = Pinned.start(shards, run / "one", cores[:1], batch).speed()
            together.append(Pinned.start(shards, run / "two", cores[:2], batch).speed() / one)
            halves = [Pinned.start(shards, run / f"half-{core}", [core], batch // 2) for core in cores[:2]]
            apart.append(sum(half.speed() for half in halves) / one)
        print(
            f"two processes on two cores train {_spread(together)} as fast as one on one core, {batch} a step "
            f"(aim 1.6); two trainings of their own, of half as many a step, {_spread(apart)}"
        )


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})"


@dataclass(frozen=True)
class Pinned:
    """A training bound to some cores, a process each."""

    process: "subprocess.Popen[bytes]"
    run: Path

    @classmethod
    def start(cls, shards: str, run: Path, cores: list[int], batch: int) -> "Pinned":
        """Start one."""
        run.mkdir(parents=True)
        how = recipe(workers=0, batch=batch, epochs=max(2, 2 * batch // BATCH))
        (run / "job.json").write_text(TrainingJob(how, shards, str(run), 0).to_json())
        bound = ["taskset", "-c", ",".join(map(str, cores)), *command(run / "job.json", len(cores))]
        return cls(subprocess.Popen(bound, env=environment(1), stderr=subprocess.DEVNULL), run)

    def speed(self) -> float:
        """Return its photographs a second, once it has ended."""
        if self.process.wait():
            raise RuntimeError(f"{self.run.name} failed")
        lines = [json.loads(line) for line in (self.run / "log.jsonl").read_text().splitlines()]
        speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
        return statistics.median(speeds[1:])  # of ten steps each; the first is of one, which finds its way


def variants(folder: Path) -> None:
    """Print latency (batch 1), throughput (batch 16) and size of each form at 224 x 224: of a network and of a grader.

    The grader is the recipe `fundus`'s: it looks at several views of each photograph.
    """
    network = Network(recipe().network, LARGE).eval()
    fundus = find_network_recipe("fundus", network_recipes())
    members, views = len(fundus.members()), fundus.grading.views
    grader = NetworkEnsemble([network] * members, views, torch.ones(members, GRADES)).eval()
    pictures = np.stack(draw_phantoms(32, LARGE).images)
    print(f"against a network's float32 at {LARGE} x {LARGE}:")
    alone, many = time_forms(network, "a network", folder, pictures, ())
    time_forms(grader, f"a grader, {members} x {views} views", folder, pictures, (alone, many))
    photograph = draw_phantoms(1, 1000).images[0]
    taken: list[float] = []
    for _ in range(20):
        begun = time.perf_counter()
        prepare(photograph, fundus.images)
        taken.append(1000 * (time.perf_counter() - begun))
    print(f"  cutting the disc out of 1000 x 1000 pixels: {min(taken) / alone:.2f} x the network's latency")


def time_forms(
    network: torch.nn.Module, name: str, folder: Path, pictures: np.ndarray, plain: tuple[float, ...]
) -> tuple[float, float]:
    """Print the times of a network's forms as shares of `plain`, or of its own float32; return that one's."""
    noise = torch.randint(0, 256, (2, LARGE, LARGE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    files = {form: folder / f"{form}.onnx" for form in ("float32", "int8-dynamic", "int8")}
    export_module(network, {"image": noise}, files["float32"], ("answer",))
    write_dynamic(files["float32"], files["int8-dynamic"])
    write_static(files["float32"], files["int8"], pictures)
    times = {batch: np.array(time_graphs(list(files.values()), pictures[:batch])) / batch for batch in (1, 16)}
    alone, many = plain or (times[1][0], times[16][0])
    print(f" {name}: float32 takes {times[1][0]:.1f} ms alone and {times[16][0]:.1f} ms in 16")
    for number, (form, file) in enumerate(files.items()):
        print(
            f"  {form:12} latency {times[1][number] / alone:.2f} x, throughput {many / times[16][number]:.2f} x, "
            f"size {file.stat().st_size / files['float32'].stat().st_size:.2f} x"
        )
    return alone, many


if __name__ == "__main__":
    sys.exit(main())
