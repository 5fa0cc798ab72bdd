"""What training costs over a bare loop, what two processes bring over one, and what int8 brings over float32.

    .venv/bin/python -m benchmarks.training [overhead] [scaling] [variants] [--steps N]

EfficientNet-Lite0 on drawn eyes. The bare loop is torch alone on the same network and batches already in memory; the
house's loads, decodes and augments, takes its steps by the same engine as ever, and tells a log. Rounds of both
alternate and medians are compared, for a machine's speed changes with its neighbours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from qfundus.classical.engine import Objective, open_engine, open_schedule, parameter_groups
from qfundus.classical.launch import command, environment
from qfundus.classical.loader import Loader, Order, Photographs
from qfundus.classical.network import Network
from qfundus.classical.parallel import Layout
from qfundus.classical.place import Place
from qfundus.classical.quantise import write_dynamic, write_static
from qfundus.classical.recipe import NetworkRecipe
from qfundus.classical.shards import read_table, write_shards
from qfundus.classical.train import Job
from qfundus.classical.watch import LogFile, Watch
from qfundus.hospital.photographs import draw_phantoms
from qfundus.imaging.labelled import Labelled
from qfundus.onnx_export import export_module

SIDE, BATCH, ROUNDS = 96, 32, 5
ALONE = Layout(0, 1, torch.device("cpu"))


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="overhead, scaling, variants; without any, all")
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    if unknown := set(asked.names) - {"overhead", "scaling", "variants"}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        shards, place = f"{folder}/eyes.lance", Path(folder)
        benchmarks = {
            "overhead": lambda: overhead(shards, place, asked.steps),
            "scaling": lambda: scaling(shards, place),
            "variants": lambda: variants(place),
        }
        if asked.names != ["variants"]:
            write_shards(draw_eyes(BATCH * asked.steps), recipe().pictures, shards)
        for name in asked.names or benchmarks:
            benchmarks[name]()


def recipe(**fitting: object) -> NetworkRecipe:
    """Return what is trained."""
    how = {"epochs": 3, "patience": 9, "batch": BATCH, "learning_rate": 0.001, "weight_decay": 0.01, "take": "last"}
    return NetworkRecipe.model_validate(
        {
            "name": "benchmark",
            "seed": 0,
            "pictures": {"side": SIDE},
            "network": {},
            "augmentation": {},
            "fitting": how | fitting,
            "grading": {},
        }
    )


def draw_eyes(count: int) -> list[Labelled]:
    """Draw labelled eyes, an eighth of them more to hold out."""
    drawn = draw_phantoms(count + count // 4, SIDE)
    return [
        Labelled(f"{n}", grade, "train" if n < count else "val", "", lambda image=image: image)
        for n, (image, grade) in enumerate(zip(drawn.images, drawn.grades, strict=True))
    ]


def overhead(shards: str, folder: Path, steps: int) -> None:
    """Compare the house's loop with a bare one."""
    torch.set_num_threads(1)  # the loader has the other core
    how = recipe()
    table = read_table(shards, how.pictures)
    rows = np.flatnonzero(table.splits == "train")
    order = Order(rows, BATCH, 0, ALONE)
    loader = Loader(Photographs(shards, table.grades, 0, how.augmentation), order, workers=1)
    engine = open_engine(Network(how.network, SIDE), how.fitting, table.grades, ALONE, steps, 0)
    batches = [batch for (batch,) in loader.epoch(0)]
    bare_loop = make_bare_loop(how, table.grades, steps)
    house: list[float] = []
    bare: list[float] = []
    with Watch([LogFile(Place(str(folder)))], steps, ROUNDS) as watch:
        for epoch in range(1, ROUNDS + 1):
            begun = time.perf_counter()
            for number, pieces in enumerate(watch.timed(loader.epoch(epoch)), 1):
                watch.stepped(number, engine.step(pieces))
            house.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            bare_loop(batches)
            bare.append(time.perf_counter() - begun)
        waiting = watch.total_waited / watch.total_seconds
    ratios = [one / other for one, other in zip(house, bare, strict=True)]
    print(f"the house's loop takes {statistics.median(ratios):.3f} x a bare loop's time, loading and augmenting in it")
    print(f"waiting for photographs: {waiting:.1%} of a step")


def make_bare_loop(how: NetworkRecipe, grades: np.ndarray, steps: int):
    """Write the loop as one would without any of this."""
    network = Network(how.network, SIDE).train()
    optimiser = torch.optim.AdamW(parameter_groups(network, how.fitting.weight_decay), lr=how.fitting.learning_rate)
    schedule = open_schedule(optimiser, how.fitting, steps)
    loss_of = Objective(how.fitting, grades, ALONE.device)

    def loop(batches: list) -> None:
        for batch in batches:
            optimiser.zero_grad()
            loss = loss_of(network(batch.inputs), batch.grades).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), how.fitting.clip)
            optimiser.step()
            schedule.step()
            loss.item()

    return loop


def scaling(shards: str, folder: Path) -> None:
    """Compare two processes on two cores with one process pinned to one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two processes need two cores: not measured")
        return
    speeds = {processes: train_pinned(shards, folder, processes, cores[:processes]) for processes in (1, 2)}
    ratio = speeds[2] / speeds[1]
    print(f"two processes on two cores train {ratio:.2f} x as fast as one on one core, {4 * BATCH} a step (aim 1.6)")


def train_pinned(shards: str, folder: Path, processes: int, cores: list[int]) -> float:
    """Return the photographs a second of a run bound to some cores."""
    run = folder / f"run-{processes}"
    run.mkdir()
    (run / "job.json").write_text(Job(recipe(workers=0, batch=4 * BATCH, epochs=6), shards, str(run), 0).to_json())
    subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *command(run / "job.json", processes)],
        env=environment(1),
        stderr=subprocess.DEVNULL,
        check=True,
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)


def variants(folder: Path) -> None:
    """Print latency (batch 1), throughput (batch 16) and size of each form of a network at 224 x 224."""
    side = 224
    network = Network(recipe().network, side).eval()
    noise = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    files = {name: folder / f"{name}.onnx" for name in ("float32", "int8-dynamic", "int8")}
    export_module(network, {"image": noise}, files["float32"], ("logits",))
    pictures = np.stack(draw_phantoms(32, side).images)
    write_dynamic(files["float32"], files["int8-dynamic"])
    write_static(files["float32"], files["int8"], pictures)
    plain, large = time_graph(files["float32"], pictures), files["float32"].stat().st_size
    print(f"{side} x {side}, against float32, which takes {plain[1]:.1f} ms alone and {plain[16]:.1f} ms in 16:")
    for name, file in files.items():
        times = time_graph(file, pictures)
        print(
            f"  {name:12} latency {times[1] / plain[1]:.2f} x, throughput {plain[16] / times[16]:.2f} x, "
            f"size {file.stat().st_size / large:.2f} x"
        )


def time_graph(file: Path, pictures: np.ndarray) -> dict[int, float]:
    """Return milliseconds a photograph by batch, the least of ten."""
    session = onnxruntime.InferenceSession(str(file))
    found: dict[int, float] = {}
    for batch in (1, 16):
        taken: list[float] = []
        for _ in range(10):
            begun = time.perf_counter()
            session.run(None, {"image": pictures[:batch]})
            taken.append(1000 * (time.perf_counter() - begun) / batch)
        found[batch] = min(taken)
    return found


if __name__ == "__main__":
    sys.exit(main())
