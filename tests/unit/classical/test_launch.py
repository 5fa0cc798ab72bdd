import subprocess

import torch

from qfundus.classical.launch import Torchrun, last_words
from qfundus.classical.place import Place, forget

TORCHRUN = [
    "E1125 22:14:01.123 412 torch/distributed/elastic/multiprocessing/api.py:1007] failed (exitcode: 1)",
    "Traceback (most recent call last):",
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    "============================================================",
    "Root Cause (first observed failure):",
]


def test_the_reason_of_a_failure_is_found_before_torchruns_pages():
    said = ["Epoch 1", "", "Training ends: The loss is no number at step 3.", "", *TORCHRUN]
    assert last_words(said) == "The loss is no number at step 3."
    assert last_words(["Traceback", "KeyError: 'x'", *TORCHRUN]) == "Traceback\nKeyError: 'x'"
    assert last_words([]) == "(it said nothing)"


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


def _job(folder, number):
    from training import make_recipe

    from qfundus.classical.train import Job

    return Job(make_recipe(), shards="none", folder=str(folder / str(number)), seed=0)


def test_a_place_is_read_and_written(tmp_path):
    place = Place(str(tmp_path / "run"))
    assert place.read("log") == b""
    assert not place.exists("log")
    place.append("log", "one\n")
    place.append("log", "two\n")
    assert place.read("log") == b"one\ntwo\n"
    place.write("log", b"new")
    assert place.read("log") == b"new"
    forget(place.address)
    forget(place.address)
    assert not (tmp_path / "run").exists()
