import os
import subprocess

import pytest
import torch

from qfundus.classical.launch import Torchrun, last_words, usable_cpus, visible_gpus
from qfundus.classical.monitor import Watch
from qfundus.classical.storage_folder import StorageFolder, delete_folder
from qfundus.errors import SetupError, TrainingError

TORCHRUN = [
    "E1125 22:14:01.123 412 torch/distributed/elastic/multiprocessing/api.py:1007] failed (exitcode: 1)",
    "Traceback (most recent call last):",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    "============================================================",
    "Root Cause (first observed failure):",
]


def test_the_reason_of_a_failure_is_found_before_torchruns_pages():
    lines = ["Epoch 1", "", "Training ends: The loss is not a number at step 3.", "", *TORCHRUN]
    assert last_words(lines) == "The loss is not a number at step 3."
    assert last_words(["Traceback", "KeyError: 'x'", *TORCHRUN]) == "Traceback\nKeyError: 'x'"
    assert last_words([]) == "(it printed nothing)"


def test_trainings_side_by_side_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    seen = []

    class Process(subprocess.Popen):
        def __init__(self, *_, env, **__):
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))
            super().__init__(["true"])

    monkeypatch.setattr(subprocess, "Popen", Process)
    launcher = Torchrun.open(networks=3, processes=2, at_once=0, scratch=tmp_path)
    assert launcher.at_once == 2
    first, _ = (launcher.start(_job(tmp_path, number)) for number in range(2))
    while not first.has_ended():
        pass
    launcher.start(_job(tmp_path, 2))
    assert seen == ["0,1", "2,3", "0,1"]


def test_a_process_takes_no_more_cpus_than_it_may(tmp_path, monkeypatch):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cpus() == 1
        assert Torchrun.open(networks=6, processes=1, at_once=0, scratch=tmp_path).at_once == 1
    finally:
        os.sched_setaffinity(0, allowed)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr("qfundus.classical.launch._CPU_QUOTA", quota)
    for limit, cpus in (("100000 100000", 1), ("max 100000", len(allowed)), ("50000 100000", 1)):
        quota.write_text(limit)
        assert usable_cpus() == cpus


def test_gpus_are_given_whole_and_only_those_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    launcher = Torchrun.open(networks=4, processes=2, at_once=3, scratch=tmp_path)
    assert (launcher.at_once, launcher.free_gpus) == (1, ["0,1"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert visible_gpus() == ["2", "5", "7"]
    with pytest.raises(SetupError, match="3 GPUs for 4 processes"):
        Torchrun.open(networks=4, processes=4, at_once=0, scratch=tmp_path)


def test_one_that_the_kernel_ends_says_so_and_not_why_an_earlier_one_failed(tmp_path, monkeypatch):
    job = _job(tmp_path, 0)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "output.log").write_text("Training ends: an older reason")
    monkeypatch.setattr("qfundus.classical.launch.command", lambda *_: ["sh", "-c", "kill -9 $$"])
    running = Torchrun(1, 1, tmp_path).start(job)
    running.process.wait(10)
    with pytest.raises(TrainingError, match=r"it printed nothing\)\n\(It was ended by SIGKILL"):
        running.has_ended()


class Kept:
    def __init__(self):
        self.closed = []

    def log(self, step, figures):
        pass

    def close(self, *, failed):
        self.closed.append(failed)
        raise OSError("The server is away.")


def test_a_failed_training_is_told_as_failed_to_every_tracker():
    first, second = Kept(), Kept()
    with pytest.raises(OSError, match="away"), Watch([first, second], 1, 1):
        raise KeyError
    assert first.closed == second.closed == [True]


def _job(folder, number):
    from trainings import make_recipe

    from qfundus.classical.job import TrainingJob

    return TrainingJob(make_recipe(), shards="none", folder=str(folder / str(number)), seed=0)


def test_a_place_is_read_and_written(tmp_path):
    place = StorageFolder(str(tmp_path / "run"))
    assert place.read("log") == b""
    assert not place.exists("log")
    place.append("log", "one\n")
    place.append("log", "two\n")
    assert place.read("log") == b"one\ntwo\n"
    place.write("log", b"new")
    assert place.read("log") == b"new"
    delete_folder(place.address)
    delete_folder(place.address)
    assert not (tmp_path / "run").exists()
