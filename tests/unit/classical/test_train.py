import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Timer

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from products import product
from trainings import alike, changed, kill_after, losses, run_job, train_here, try_job, weights
from waiting import wait_until

from qfundus.classical.checkpoints import Checkpoints, Position
from qfundus.classical.folds import split_fold
from qfundus.classical.job import WEIGHTS_FILE, hold_folder
from qfundus.classical.launch import Torchrun, train_all
from qfundus.classical.loader import Order
from qfundus.classical.parallel import Layout
from qfundus.classical.shards import read_table
from qfundus.classical.trackers import Forgiving
from qfundus.classical.train import train
from qfundus.errors import SetupError, TrainingError
from qfundus.logs import Unfailing

NONE = {"turn": False, "mirror": False, "zoom": 0, "shift": 0, "brightness": 0, "contrast": 0, "tint": 0}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained_job, job, tmp_path):
    other = replace(job, folder=str(tmp_path / "other"), seed=4)
    for one in (job, other):
        train_here(one)
    assert alike(weights(job), weights(trained_job))
    assert not alike(weights(other), weights(trained_job))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", product("bfloat16")])
def test_training_learns_what_can_be_learned(precision, job, tmp_path):
    how = {"training__epochs": 6, "training__precision": precision, "training__learning_rate": 0.003}
    how |= {"network__batch_norm": "own"}
    long = changed(job, tmp_path / "long", augmentation=NONE, **how)
    trained = train_here(long)
    assert trained.train_loss < 0.4 * losses(long)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", [product("bfloat16"), "float16"])
def test_mixed_precision_comes_near(precision, job, tmp_path):
    # The course of so small a set is soon another: in its first epoch it is not.
    how = {"training__epochs": 1, "training__warm_up": 0}
    whole = changed(job, tmp_path / "whole", **how)
    mixed = changed(job, tmp_path / "mixed", **how, training__precision=precision)
    for one in (whole, mixed):
        train_here(one)
    assert losses(mixed)[0][0] == pytest.approx(losses(whole)[0][0], abs=0.02)
    assert losses(mixed) != losses(whole)


@pytest.mark.product
def test_a_killed_run_goes_on_to_the_weights_of_one_never_stopped(job, tmp_path):
    settings = {"training__epochs": 6, "training__checkpoint_every": 1, "training__ema": 0.9, "network__dropout": 0.2}
    whole, killed = changed(job, tmp_path / "whole", **settings), changed(job, tmp_path / "killed", **settings)
    train_here(whole)
    kill_after(killed, steps=3)
    assert "Training resumed" in run_job(killed)
    assert alike(weights(whole), weights(killed))


def test_checkpoints_of_another_training_are_not_gone_on_with(job, tmp_path):
    kept = replace(job, checkpoints=str(tmp_path / "kept"))
    train(kept)
    with pytest.raises(TrainingError, match="another recipe, seed or data"):
        train(replace(kept, seed=9))


@pytest.mark.slow
def test_the_last_checkpoints_and_the_best_are_kept(job, tmp_path):
    kept = changed(job, tmp_path / "kept", training__epochs=5, training__keep=2, training__learning_rate=0.5)
    train_here(kept)
    there = sorted(path.name for path in (Path(kept.folder) / "checkpoints").iterdir())
    held = [loss for _, loss in losses(kept)]
    best = f"{held.index(min(held)) + 1:05d}-000000"
    assert there == sorted({"00004-000000", "00005-000000", best})


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(job, tmp_path, capsys):
    steps = changed(job, tmp_path / "steps", training__checkpoint_every=1, training__keep=4)
    train_here(steps)
    whole = weights(steps)
    *_, older, newest = sorted((tmp_path / "steps" / "checkpoints").iterdir())
    (newest / "complete.json").write_text('{"epoch": 2, "st')
    for shard in older.glob("*.distcp"):
        shard.write_bytes(shard.read_bytes()[:1000])
    (tmp_path / "steps" / "checkpoints" / "00000-000009").mkdir()  # half written by a run that was killed
    train(steps)
    assert "Skipped a checkpoint" in "".join(capsys.readouterr())
    assert alike(weights(steps), whole)
    assert not (tmp_path / "steps" / "checkpoints" / "00000-000009").exists()


@pytest.mark.slow
def test_a_half_written_checkpoint_does_not_count(trained_job, job):
    shutil.copytree(trained_job.folder, job.folder)
    (Path(job.folder) / WEIGHTS_FILE).unlink()
    (Path(job.folder) / "checkpoints" / "00002-000000" / "complete.json").unlink()
    train(job)
    assert alike(weights(job), weights(trained_job))


def test_a_loss_that_is_no_number_stops_it_with_the_batch_and_keeps_the_checkpoint(job, tmp_path):
    how = {"training__warm_up": 0, "training__clip": 1e30, "training__checkpoint_every": 1}
    broken = changed(job, tmp_path / "broken", training__learning_rate=1e30, **how)
    Path(broken.folder).mkdir()
    where = r"at step \d of epoch \d, on the photographs \w+-\d+, .*checkpoint 00000-00000\d is kept.*Lower"
    with pytest.raises(TrainingError, match=f"not a number {where}"):
        train(broken)
    assert list(Path(broken.checkpoint_folder).glob("00000-*/complete.json"))


def test_more_processes_than_photographs_are_refused(job, tmp_path):
    many = changed(job, tmp_path / "many", grading__folds=2)
    rows = np.arange(7)
    with pytest.raises(SetupError, match="7 photographs to train on cannot be divided among 8 processes"):
        Order(rows, many.recipe.training.batch, 0, Layout(0, 8, torch.device("cpu")))


@pytest.mark.slow
def test_training_ends_early_when_nothing_gets_better(job, tmp_path):
    stale = changed(job, tmp_path / "stale", training__epochs=30, training__patience=2, training__learning_rate=0.3)
    trained = train_here(stale)
    assert trained.epochs < 30
    assert trained.epochs - trained.best_epoch == 2


def test_two_trainings_in_one_folder_are_refused(job):
    with (
        hold_folder(job.results, Layout(0, 1, torch.device("cpu"))),
        pytest.raises(TrainingError, match=rf"Another process \({os.getpid()}\)"),
    ):
        train(job)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of two megabytes. Only root may mount one; CI is root."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_training(job, small_disk, capsys):
    """A real file system takes the checkpoints, of which each is larger."""
    trained = train(replace(job, checkpoints=str(small_disk / "checkpoints")))
    assert trained.epochs == 2
    printed = "".join(capsys.readouterr())
    assert "Could not write a checkpoint" in printed
    assert "No space left" in printed
    assert trained.lost_checkpoints == 2


def test_the_last_steps_of_an_epoch_are_told_though_no_tenth_is_among_them(trained_job):
    lines = [json.loads(line) for line in trained_job.results.read("log.jsonl").decode().splitlines()]
    ended = [line for line in lines if "epoch" in line]
    assert [line["step"] % 10 for line in ended] != [0, 0]
    assert all(line["images_per_second"] > 0 and "gradient_norm" in line for line in ended)


@pytest.mark.product
def test_a_disk_that_is_full_for_all_is_said_and_gone_on_with(job, small_disk):
    """Log, output, checkpoints and weights lie on one file system."""
    there = replace(job, folder=str(small_disk / "00"))
    with pytest.raises(TrainingError, match="The disk is full"):
        train_all([there], Torchrun(1, 1, small_disk))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    train_all([there], Torchrun(1, 1, small_disk))
    assert there.is_done


@pytest.mark.slow
def test_weights_and_biases_gets_the_figures_where_a_project_is_named(job, monkeypatch):
    import wandb

    wandb.teardown()  # it keeps what an earlier test's environment said
    monkeypatch.setenv("WANDB_PROJECT", "fundus")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_here(job)
    (kept,) = Path(job.folder).glob("wandb/offline-run-*/run-*.wandb")
    # Weights & Biases writes the file in a process of its own.
    wait_until(lambda: b"held_loss" in kept.read_bytes(), 30)


@pytest.mark.product
def test_the_module_says_its_error_in_one_message(job, tmp_path):
    broken = changed(job, tmp_path / "broken", training__learning_rate=1e30, training__warm_up=0, training__clip=1e30)
    status, written = try_job(broken)
    assert status == 1
    assert "Traceback" not in written


class Written:
    """What a checkpoint is of, written by nobody: a test says when it is."""

    def __init__(self):
        self.writing = Future()

    def save(self, folder):
        Path(folder).mkdir(parents=True)
        return self.writing


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(str(tmp_path / "checkpoints"), 2, Layout(0, 1, torch.device("cpu")))


def test_a_checkpoint_counts_as_soon_as_it_is_written(kept):
    engine = Written()
    kept.save(engine, Position(0, 1))
    kept.check_written()
    assert kept.complete() == []
    engine.writing.set_result(None)
    kept.check_written()
    assert [position.step for position in kept.complete()] == [1]


def test_a_training_that_is_ended_waits_for_the_checkpoint_that_is_being_written(kept):
    engine = Written()

    def end_while_it_is_written():
        with kept:
            kept.save(engine, Position(0, 1))
            Timer(0.2, engine.writing.set_result, [None]).start()
            sys.exit(143)

    with pytest.raises(SystemExit):
        end_while_it_is_written()
    assert [position.step for position in kept.complete()] == [1]


@pytest.mark.slow
def test_photographs_held_out_that_cannot_be_read_are_counted_and_all_of_them_end_it(job, tmp_path):
    _, held = split_fold(read_table(job.shards, job.recipe.images), job.recipe.grading.folds, job.fold)
    some = spoil(job.shards, tmp_path / "some.lance", held[:1])
    assert train_here(replace(job, shards=some)).skipped == job.recipe.training.epochs
    every = replace(job, shards=spoil(job.shards, tmp_path / "every.lance", held), folder=str(tmp_path / "every"))
    with pytest.raises(TrainingError, match="None of the photographs held out can be read: prepare the shards again"):
        train_here(every)


def spoil(shards, to, rows):
    """Copy shards with photographs that are none in some rows."""
    table = lance.dataset(shards).to_table()
    images = [b"x" if row in rows else image.as_py() for row, image in enumerate(table["image"])]
    column = table.schema.get_field_index("image")
    field = table.schema.field(column)
    lance.write_dataset(table.set_column(column, field, pa.array(images, field.type)), to)
    lance.dataset(to).update_metadata(lance.dataset(shards).metadata)
    return str(to)


def test_a_tracker_that_cannot_be_reached_is_left_alone_for_a_minute_and_stops_nothing(capsys):
    class Away:
        tries = 0

        def log(self, step, figures):
            self.tries += 1
            raise ConnectionError("nobody is there")

        def close(self, *, failed):
            raise ConnectionError("nobody is there")

    away = Away()
    forgiving = Forgiving("MLflow", lambda: away)
    for step in range(3):
        forgiving.log(step, {"loss": 1.0})
    forgiving.close(failed=False)
    assert away.tries == 1
    assert "Figures are only in the log" in "".join(capsys.readouterr())


def test_logs_to_a_full_disk_stop_nothing():
    with Path("/dev/full").open("w") as full:
        stream = Unfailing(full)
        stream.write("a line")
        stream.flush()
        full.close = lambda: None  # it would try once more


def test_a_tracker_that_cannot_be_opened_stops_nothing_and_its_address_is_not_told(capsys):
    def open_tracker():
        raise ConnectionError("https://user:secret@tracking.example is away")

    forgiving = Forgiving("MLflow", open_tracker)
    forgiving.log(1, {"loss": 1.0})
    forgiving.close(failed=False)
    printed = "".join(capsys.readouterr())
    assert "ConnectionError" in printed
    assert "secret" not in printed


def test_old_checkpoints_that_cannot_be_deleted_cost_no_new_one(kept, monkeypatch, capsys):
    engine = Written()
    engine.writing.set_result(None)
    kept.save(engine, Position(0, 1))

    def away():
        raise OSError("the store is away")

    monkeypatch.setattr(kept, "_prune", away)
    kept.finish()
    assert [position.step for position in kept.complete()] == [1]
    assert kept.lost == 0
    assert "Could not delete old checkpoints" in "".join(capsys.readouterr())
