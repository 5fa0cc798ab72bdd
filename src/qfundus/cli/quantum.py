"""Circuits: what they take, and where they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qfundus.cli.shared import AsJson, Column, columns, console, print_rows
from qfundus.errors import SetupError

if TYPE_CHECKING:
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.quantum.shots import Gradient
    from qfundus.recipes.nightly import QuantumHeadRecipe

commands = typer.Typer(help="Plan circuits, and run them on backends.", no_args_is_help=True)


@commands.command("plan")
def plan_quantum(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as configs/recipes/nightly.yaml.", exists=True)],
    eyes: Annotated[int, typer.Option(help="Eyes in the training split.", min=1)] = 10_000,
    hours: Annotated[float, typer.Option(help="The length of the night in hours.", min=0.0)] = 6.0,
    backend: Annotated[str, typer.Option(help="Also count what fine-tuning on this backend would send.")] = "",
    precision: Annotated[
        float, typer.Option(help="Standard deviation of each estimated value.", min=1e-4, max=1.0)
    ] = 0.02,
    spsa: Annotated[
        bool, typer.Option("--spsa", help="Estimate gradients by SPSA instead of parameter shift.")
    ] = False,
) -> None:
    """Measure a recipe's circuit and predict its night; exit with 1, and propose a smaller one, if it is too long.

    With --backend also what an epoch of fine-tuning there would send and cost, which the site's limit for a day may
    refuse.
    """
    from qfundus.heads.quantum_plan import Refusal, plan_night
    from qfundus.layout import network_recipes
    from qfundus.recipes.nightly import load_nightly_recipe

    quantum = load_nightly_recipe(recipe, network_recipes()).quantum
    with console.status("Measuring a step ..."):
        plan = plan_night(quantum, eyes, hours * 3600)
    if isinstance(plan, Refusal):
        smaller = plan.proposal
        hint = f" {smaller.qubits} qubits and {smaller.layers} layers would fit." if smaller else ""
        raise SetupError(f"{plan.why}{hint}")
    console.print(
        f"{quantum.ansatz}, {quantum.qubits} qubits, {quantum.layers} layers, batch {quantum.batch}, by "
        f"{plan.method}: compiled in {plan.compile_seconds:.2f} s, "
        f"a step {1000 * plan.step_seconds:.1f} ms and {plan.bytes / 2**20:.0f} MiB; "
        f"{plan.steps} steps at most, {plan.night_seconds / 60:.1f} min. Trained exactly: no shots, no cost.",
        soft_wrap=True,
    )
    if backend:
        _print_shots(quantum, eyes, backend, precision, "spsa" if spsa else "parameter_shift")


def _print_shots(quantum: "QuantumHeadRecipe", eyes: int, backend: str, precision: float, gradient: "Gradient") -> None:
    from qfundus.heads.quantum_plan import plan_shots
    from qfundus.quantum.jobs.queue import read_rules

    plan, limit = plan_shots(quantum, eyes, backend, precision=precision, gradient=gradient), read_rules().site.cost
    message = (
        f"An epoch of fine-tuning on {backend}, by {gradient.replace('_', ' ')}: {plan.circuits:,} circuits and "
        f"{plan.shots:,} shots, at {plan.cost:,.2f}."
    )
    if plan.cost > limit:
        fewer = int(eyes * limit / plan.cost)
        other = "" if gradient == "spsa" else ", --spsa"
        raise SetupError(f"{message} The limit is {limit:,.2f} a day: {fewer} eyes, a larger --precision{other}.")
    console.print(message, soft_wrap=True)


@commands.command("backends")
def list_backends(as_json: AsJson = False) -> None:
    """List where circuits may run: the names in configs/quantum.yaml, and what is missing to open each."""
    from qfundus.quantum.backends import open_backend, read_backends

    rows: list[dict[str, object]] = []
    for name, options in sorted(read_backends().items()):
        qubits, missing = None, ""
        try:
            target = open_backend(name).target
            qubits = None if target is None else target.num_qubits
        except SetupError as error:
            missing = str(error)
        through = str(options.get("through", name))
        rows.append({"name": name, "through": through, "available": not missing, "qubits": qubits, "missing": missing})
    listed = (*columns("name", "through", "available"), Column("qubits", show=_show_width), Column("missing"))
    print_rows(listed, rows, as_json=as_json)


def _show_width(qubits: int | None) -> str:
    return "any" if qubits is None else str(qubits)


_Jobs = Annotated[list[str], typer.Argument(help="Jobs as `quantum jobs` lists them; a prefix is enough.")]


@commands.command("jobs")
def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Include jobs that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the quantum jobs that are under way: where each is, since when, what it costs, and why it waits."""
    import time

    now = time.time()
    rows = [
        {
            "job": job.id[:12],
            "state": job.state,
            "backend": job.backend,
            "backends": list(job.backends),
            "user": job.user,
            "circuits": job.circuits,
            "shots": job.shots,
            "waited_seconds": (job.started or job.ended or now) - job.created,
            "run_seconds": (job.ended or now) - job.started if job.started else None,
            "cost": job.cost,
            "cache_hits": job.asked - 1,
            "message": job.message,
        }
        for job in _open_jobs().jobs(() if everything else ("queued", "running"))
    ]
    listed = (
        *columns("job", "state", "backend"),
        Column("backends", show=", ".join),
        *columns("user", "circuits", "shots"),
        Column("waited_seconds", "waited", _show_seconds),
        Column("run_seconds", "ran", _show_seconds),
        Column("cost", show="{:g}".format),
        *columns("cache_hits", "message"),
    )
    print_rows(listed, rows, as_json=as_json)


def _show_seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s"


@commands.command("cancel")
def cancel_jobs(jobs: _Jobs) -> None:
    """Cancel jobs; running ones are cancelled at the vendor where possible."""
    store = _open_jobs()
    for named in jobs:
        matching = [job for job in store.jobs() if job.id.startswith(named)]
        if len(matching) != 1:
            raise SetupError(f"{len(matching)} jobs begin with {named}: see `qfundus quantum jobs --all`.")
        ended = not store.cancel(matching[0].id)
        console.print(f"{named}: {'it had ended already' if ended else 'cancelled'}.")


@commands.command("work")
def work_off_jobs(
    metrics_port: Annotated[int, typer.Option(help="Port for Prometheus on loopback; 0 for none.")] = 0,
) -> None:
    """Run a worker that sends queued jobs and fetches results, until stopped; you can run several."""
    import signal
    import threading

    from qfundus.quantum.jobs.monitor import serve_metrics
    from qfundus.quantum.jobs.queue import Worker, read_rules

    stop = threading.Event()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: stop.set())
    store = _open_jobs()
    if metrics_port:
        serve_metrics(metrics_port, store)
    console.print("Working on quantum jobs; stop with Ctrl+C.")
    Worker(store, read_rules()).run(stop)


def _open_jobs() -> "JobStore":
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.settings import QuantumSettings

    return JobStore(QuantumSettings().jobs_address)
