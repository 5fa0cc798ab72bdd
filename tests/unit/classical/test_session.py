import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import psutil
import pytest
import torch
from command_line import call
from medmnist.evaluator import getACC, getAUC
from PIL import Image
from scipy.special import log_softmax
from trainings import SIDE, make_labelled, make_recipe

from qfundus.classical.calibration import HeldOutLogits, average_by_row, cross_fit, fit_scales
from qfundus.classical.claim import digest_data
from qfundus.classical.ensemble import rotate_and_flip
from qfundus.classical.evaluate import measure
from qfundus.classical.explain import load_networks
from qfundus.classical.grader import open_grader
from qfundus.classical.job import TrainingJob, hold_folder
from qfundus.classical.launch import InPlace
from qfundus.classical.parallel import Layout
from qfundus.classical.progress import Watcher, read_log
from qfundus.classical.session import train_grader, warn_of_constant
from qfundus.classical.storage_folder import StorageFolder
from qfundus.errors import SetupError, TrainingError
from qfundus.evaluation.gate import Drop
from qfundus.evaluation.metrics import Estimate
from qfundus.layout import network_recipes
from qfundus.onnx_graphs.quantise import is_quantised, write_dynamic
from qfundus.recipes.network import find_network_recipe

RECIPE = f"""
name: small
seed: 1
images: {{side: {SIDE}}}
network: {{}}
augmentation: {{tint: 0}}
training: {{epochs: 2, patience: 5, batch: 20, learning_rate: 0.003, weight_decay: 0.01, workers: 0}}
grading: {{folds: 2, views: 4}}
variants: [{{soft_labels: 0.5}}, {{head: cumulative_link}}]
"""


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    labelled = {"train": make_labelled(80), "test": make_labelled(40, 1)}
    file = tmp_path_factory.mktemp("data") / "eyes.npz"
    arrays = {f"{split}_images": np.stack([one.read() for one in all_]) for split, all_ in labelled.items()}
    arrays |= {f"{split}_labels": np.array([[one.grade] for one in all_]) for split, all_ in labelled.items()}
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "small.yaml"
    file.write_text(RECIPE)
    return file


@pytest.fixture(scope="module")
def trained(npz, recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("grader") / "out"
    # In this process: four of their own would import PyTorch for longer than they train.
    chosen = find_network_recipe(str(recipe), network_recipes())
    train_grader(chosen, str(npz), out, seed=chosen.seed, launcher=InPlace())
    done = call("train", recipe, "--data", npz, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout.splitlines()[-1])


def test_train_writes_a_grader_and_says_how_it_does_on_what_it_had_not_seen(trained):
    out, summary = trained
    assert summary["photographs"] == 80  # the test split is not among them
    assert {file.name for file in out.iterdir()} >= {"model.onnx", "grader.json", "held_out.npz"}
    assert len(list((out / "networks").iterdir())) == 2
    assert json.loads((out / "grader.json").read_text())["recipe"]["name"] == "small"


def test_evaluate_prints_what_medmnist_computes(trained, npz, tmp_path):
    out, _ = trained
    predictions = tmp_path / "predictions.npz"
    done = call("evaluate", "--data", npz, "--model", out, "--predictions", predictions, "--json")
    measured = json.loads(done.stdout)
    truth = np.load(npz)["test_labels"]
    probabilities = np.load(predictions)["probabilities"]
    assert measured["split"] == "test"
    assert list(np.load(predictions)["grades"]) == list(truth.ravel())
    assert np.load(predictions)["names"][1] == "test-00001"
    assert measured["auc"] == pytest.approx(getAUC(truth, probabilities, "ordinal-regression"))
    assert measured["acc"] == pytest.approx(getACC(truth, probabilities, "ordinal-regression"))
    printed = call("evaluate", "--data", npz, "--model", out).stdout
    assert f"AUC {measured['auc']:.4f}  ACC {measured['acc']:.4f}" in printed


def test_what_is_not_defined_is_null_and_the_curve_is_drawn(trained, tmp_path):
    out, _ = trained
    labelled = [one for one in make_labelled(40, 2) if one.grade < 3]
    few = tmp_path / "few.npz"
    np.savez(few, test_images=np.stack([o.read() for o in labelled]), test_labels=[o.grade for o in labelled])
    done = call("evaluate", "--data", few, "--model", out, "--curve", tmp_path / "curve.png", "--json")
    assert json.loads(done.stdout)["auc"] is None  # there are not all five grades
    with Image.open(tmp_path / "curve.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_photographs_may_move_and_others_behind_the_same_name_are_another_training(trained, npz, recipe, tmp_path):
    out, _ = trained
    kept, there = tmp_path / "out", tmp_path / "eyes.npz"
    shutil.copytree(out, kept)
    shutil.copy(npz, there)
    assert call("train", recipe, "--data", there, "--out", kept).exit_code == 0
    arrays = dict(np.load(npz))
    np.savez(there, **{**arrays, "train_images": arrays["train_images"][::-1]})
    assert "another data" in str(call("train", recipe, "--data", there, "--out", kept).exception)


def test_shards_are_not_written_over_unasked(npz, recipe, tmp_path):
    to = tmp_path / "eyes.lance"
    assert call("shard", recipe, "--data", npz, "--to", to).exit_code == 0
    assert "--overwrite" in str(call("shard", recipe, "--data", npz, "--to", to).exception)
    assert call("shard", recipe, "--data", npz, "--to", to, "--overwrite").exit_code == 0


def test_shards_that_were_cut_are_said_to_be_damaged(npz, recipe, tmp_path):
    to = tmp_path / "eyes.lance"
    assert call("shard", recipe, "--data", npz, "--to", to).exit_code == 0
    [file] = (to / "data").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    done = call("train", recipe, "--data", to, "--out", tmp_path / "out")
    assert "are damaged" in str(done.exception)
    assert not (tmp_path / "out").exists()
    assert "holds shards" in str(call("shard", recipe, "--data", to, "--to", tmp_path / "other.lance").exception)


def test_too_few_photographs_to_hold_any_out_are_refused(tmp_path):
    recipe = tmp_path / "alone.yaml"
    recipe.write_text(RECIPE.replace("folds: 2", "folds: 1"))
    labelled = make_labelled(10)
    few = tmp_path / "few.npz"
    np.savez(few, train_images=np.stack([o.read() for o in labelled]), train_labels=[o.grade for o in labelled])
    done = call("train", recipe, "--data", few, "--out", tmp_path / "out")
    assert "2 of the commonest grade, cannot be held out" in str(done.exception)


def test_training_again_finds_what_is_done(trained, npz, recipe):
    out, summary = trained
    before = (out / "networks" / "00" / "weights.pt").stat().st_mtime_ns
    again = call("train", recipe, "--data", npz, "--out", out, "--json")
    assert json.loads(again.stdout.splitlines()[-1]) == summary
    assert (out / "networks" / "00" / "weights.pt").stat().st_mtime_ns == before


@pytest.mark.product
def test_what_lies_beside_checkpoints_stays(npz, recipe, tmp_path):
    place = tmp_path / "precious"
    for name in ("00/thesis.txt", "00/00001", "photographs/eye.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("not ours")
    before = sorted(place.rglob("*"))
    done = call("train", recipe, "--data", npz, "--out", tmp_path / "out", "--checkpoints", place)
    assert done.exit_code == 0, done.output
    assert sorted(place.rglob("*")) == before


def test_a_folder_in_which_another_trains_is_left_as_it_is(npz, recipe, tmp_path):
    out = tmp_path / "out"
    with hold_folder(StorageFolder(str(out)), Layout(0, 1, torch.device("cpu"))):
        done = call("train", recipe, "--data", npz, "--out", out)
    assert isinstance(done.exception, TrainingError)
    assert f"Another process ({os.getpid()})" in str(done.exception)
    assert [file.name for file in out.iterdir()] == ["lock"]


def test_a_log_line_that_was_cut_short_is_passed_over():
    whole = '{"step": 5, "epoch": 1, "held_loss": 1.5}'
    assert read_log(f'{whole}\n{{"step": 10, "epoch": 2, "trai{whole}\n') == (json.loads(whole),) * 2
    assert read_log(f'{whole}\n{{"step": 7, "loss": 2}}\n') == ({"step": 7, "loss": 2}, json.loads(whole))
    assert read_log('{"step": 10, "epoch": 2, "trai') == ({}, {})


def test_progress_says_how_far_it_is_and_how_long_it_takes_yet(tmp_path, monkeypatch):
    recipe = make_recipe(training__epochs=2)
    jobs = [TrainingJob(recipe, "none", str(tmp_path / name), seed=0) for name in "ab"]
    watcher, now = Watcher([10, 10]), iter((0.0, 60.0))
    monkeypatch.setattr("qfundus.classical.progress.time.monotonic", lambda: next(now))
    jobs[0].results.append("log.jsonl", '{"step": 10, "epoch": 1, "held_loss": 1.5}\n')
    first = watcher.look(jobs)
    assert (first.epochs, first.share, first.loss) == ((1, 0), 0.25, 1.5)
    jobs[0].results.append("log.jsonl", '{"step": 20, "epoch": 2, "held_loss": 1.25}\n')
    assert watcher.look(jobs).describe() == (
        "Training 2 networks, 50%, epochs 2/2, 0/2; held-out loss 1.250; 2 min left at most"
    )


def test_a_grader_that_tells_one_grade_of_everything_is_not_handed_over_without_a_word(capsys):
    warn_of_constant(np.full((4, 5), 0.2))
    assert "predicts the same grade for every photograph" in capsys.readouterr().out
    warn_of_constant(np.eye(5))
    assert capsys.readouterr().out == ""


def test_int8_is_measured_like_the_grader_itself(trained, npz, tmp_path):
    folder = tmp_path / "grader"
    shutil.copytree(trained[0], folder)
    write_dynamic(folder / "model.onnx", folder / "model.int8-dynamic.onnx")
    plain, int8 = (
        json.loads(call("evaluate", "--data", npz, "--model", folder, "--json", *form).stdout.splitlines()[-1])
        for form in ((), ("--form", "int8-dynamic"))
    )
    assert int8["acc"] == pytest.approx(plain["acc"], abs=0.1)
    done = call("evaluate", "--data", npz, "--model", folder, "--form", "int9")
    assert "does not hold model.int9.onnx" in str(done.exception)


def test_a_folder_of_another_training_is_refused(trained, npz, recipe):
    out, _ = trained
    done = call("train", recipe, "--data", npz, "--out", out, "--seed", 9)
    assert isinstance(done.exception, SetupError)
    assert "another seed" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("retinamist", "Did you mean retinamnist?"),
        ("no-such.yaml", "does not exist"),
        ("xyz", "Known recipes: fundus, retinamnist."),
    ],
)
def test_a_recipe_that_is_not_there_is_said_with_the_nearest(name, message, npz, tmp_path):
    done = call("train", name, "--data", npz, "--out", tmp_path / "out")
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("epochs: 2", "epoch: 2|Unknown setting training.epoch. Did you mean epochs?"),
        ("epochs: 2", "epochs: 0|training.epochs: Input should be greater than 0"),
        ("{soft_labels: 0.5}", "{soft_labls: 0.5}|Unknown setting variants.0.soft_labls"),
        ("network: {}", "network: {backbone: efficientnet-lite3}|Did you mean efficientnet-lite"),
        ("network: {}", "network: {backbone: monai-vit}|set `pretrained: false`"),
        ("{soft_labels: 0.5}", "{backbone: monai-vit}|Invalid variant"),
        ("seed: 1", "seed: -1|seed: Input should be greater"),
        ("epochs: 2", "epochs: 2, lr: 1|Unknown setting training.lr. Did you mean learning_rate?"),
        ("epochs: 2", "epochs: 2, strategy: FSDP2|Did you mean fsdp2?"),
        (
            "{soft_labels: 0.5}",
            "{workers: 2}|Known settings: backbone, pretrained, head, loss, soft_labels, label_smoothing.",
        ),
        ("network: {}", "network:|network must hold settings"),
        (f"side: {SIDE}", f"side: {SIDE}, preparation: disc|images.preparation must be a list"),
        ("workers: 0", "workers: 0, offload: true|Only zero1, zero2 and zero3 offload"),
        ("workers: 0", "workers: 0, strategy: zero2, ema: 0.9|does not average weights"),
        ("workers: 0", "workers: 0, epochs: 7|epochs is given twice"),
    ],
)
def test_a_typo_in_a_recipe_is_refused_with_the_remedy(wrong, expected, npz, tmp_path):
    put, _, message = expected.partition("|")
    file = tmp_path / "wrong.yaml"
    file.write_text(RECIPE.replace(wrong, put))
    done = call("train", file, "--data", npz, "--out", tmp_path / "out")
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("splits", "grade", "message"), [("train", 2, "All 20 photographs"), ("test", None, "No photographs to train on")]
)
def test_what_cannot_be_divided_is_refused_before_a_training_starts(splits, grade, message, recipe, tmp_path):
    labelled = make_labelled(20)
    arrays = {
        f"{splits}_images": np.stack([one.read() for one in labelled]),
        f"{splits}_labels": np.array([one.grade if grade is None else grade for one in labelled]),
    }
    np.savez(tmp_path / "eyes.npz", **arrays)
    done = call("train", recipe, "--data", tmp_path / "eyes.npz", "--out", tmp_path / "out")
    assert isinstance(done.exception, SetupError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"Test_images": 1, "Test_labels": 1}, "holds Test_images, but the splits are train, val"),
        ({"train_images": 1, "train_labels": 0}, "a single value"),
        ({"train_images": 1, "train_labels": 1, "train_objects": 1}, "arrays of Python objects"),
    ],
)
def test_an_npz_file_that_says_it_otherwise_is_refused(arrays, message, recipe, tmp_path):
    labelled = make_labelled(20)
    whole = {"images": np.stack([one.read() for one in labelled]), "labels": np.array([one.grade for one in labelled])}
    whole |= {"objects": np.array(None)}
    np.savez(tmp_path / "eyes.npz", **{k: whole[k.split("_")[1]] if v else np.array(3) for k, v in arrays.items()})
    assert message in str(call("train", recipe, "--data", tmp_path / "eyes.npz", "--out", tmp_path / "out").exception)


def test_what_lies_beside_the_photographs_is_not_among_them(tmp_path):
    folder = tmp_path / "eyes"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "eye.png")
    (folder / "labels.csv").write_text("file,grade\neye.png,1\n")
    before = digest_data(str(folder), make_recipe())
    (folder / "grader").mkdir()
    (folder / "gone").symlink_to("nowhere")
    assert digest_data(str(folder), make_recipe()) == before
    Image.fromarray(np.ones((9, 9, 3), np.uint8)).save(folder / "eye.png")
    assert digest_data(str(folder), make_recipe()) != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--track", "http://127.0.0.1:9"), "MLflow does not answer"),
        (("--track", "htp://127.0.0.1:9"), "must begin with http:// or https://"),
        (("--checkpoints", "gs://bucket/run"), "begins with s3://"),
        (("--processes", "70"), "cannot be divided among 70 processes"),
    ],
)
def test_what_cannot_work_is_said_before_it_starts(words, message, npz, recipe, tmp_path):
    done = call("train", recipe, "--data", npz, "--out", tmp_path / "out", *words)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_grader_that_is_damaged_is_said(trained, npz, tmp_path):
    for name in ("model.onnx", "grader.json"):
        folder = tmp_path / name
        shutil.copytree(trained[0], folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        assert "is damaged" in str(call("evaluate", "--data", npz, "--model", folder).exception), name


def test_a_picture_that_cannot_be_written_is_said_before_anything_is_graded(trained, npz, tmp_path):
    words = ("evaluate", "--data", npz, "--model", trained[0])
    assert "not a picture's file name" in str(call(*words, "--curve", tmp_path / "curve.txt").exception)
    assert "does not exist" in str(call(*words, "--predictions", tmp_path / "none" / "predictions.npz").exception)


def test_data_that_is_not_there_does_not_claim_the_folder(npz, recipe, tmp_path):
    out = tmp_path / "out"
    assert "does not exist" in str(call("train", recipe, "--data", tmp_path / "nope.npz", "--out", out).exception)
    assert not out.exists()


def test_int8_that_costs_too_much_is_deleted_and_the_command_fails(quantised, npz, tmp_path, monkeypatch):
    written = quantised[0] / "model.int8.onnx"
    folder = shutil.copytree(quantised[0], tmp_path / "grader")
    lost = Drop("kappa", Estimate(0.5, 0.4, 0.6), allowed=0.05)
    monkeypatch.setattr("qfundus.classical.quantise.judge_form", lambda *_, **__: lost)
    # To write it once more would take as long as all else here.
    monkeypatch.setattr("qfundus.classical.quantise.write_static", lambda _, target, __: shutil.copy(written, target))
    done = call("quantise", folder, "--data", npz, "--split", "test", "--json")
    assert done.exit_code == 1
    assert not (folder / "model.int8.onnx").exists()


def test_an_explanation_needs_only_the_folder(trained, tmp_path):
    out, _ = trained
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)
    job = moved / "networks" / "00" / "job.json"
    job.write_text(job.read_text().replace(str(out), "/nowhere"))
    assert len(load_networks(moved)) == 2


def processes_of(out):
    return [p for p in psutil.process_iter(["cmdline"]) if str(out) in " ".join(p.info["cmdline"] or [])]


@pytest.mark.product
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_ended_from_outside_it_leaves_nothing_running_and_goes_on_when_called_again(how, npz, tmp_path):
    recipe, out = tmp_path / "plain.yaml", tmp_path / "out"
    recipe.write_text("\n".join(line for line in RECIPE.splitlines() if not line.startswith("variants")))
    words = [sys.executable, "-c", "from qfundus.cli import run; run()", "train", recipe, "--data", npz, "--out", out]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(out.glob("networks/*/log.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(processes_of(out)) > 1
    process.send_signal(how)
    _, printed = process.communicate(timeout=30)
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert "the same command goes on from here" in printed
    until = time.monotonic() + 20
    while processes_of(out) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_of(out) == []
    assert call("train", recipe, "--data", npz, "--out", out).exit_code == 0


@pytest.mark.slow
def test_a_training_that_fails_says_its_last_lines(npz, tmp_path):
    file = tmp_path / "diverging.yaml"
    recipe = RECIPE.replace("learning_rate: 0.003", "learning_rate: 1.0e+30, clip: 1.0e+30, warm_up: 0")
    file.write_text(recipe.replace("folds: 2", "folds: 1"))
    done = call("train", file, "--data", npz, "--out", tmp_path / "out")
    assert "The loss is not a number at step" in str(done.exception)
    assert "Lower `learning_rate`" in str(done.exception)


def test_the_graph_takes_any_batch(trained):
    out, _ = trained
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for count in (1, 7):
        (probabilities,) = session.run(None, {"image": np.zeros((count, SIDE, SIDE, 3), np.uint8)})
        assert probabilities.shape == (count, 5)
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_a_folder_without_a_grader_is_said(tmp_path):
    with pytest.raises(SetupError, match=r"does not hold model\.onnx"):
        open_grader(str(tmp_path))


def test_the_eight_views_are_all_different_and_the_first_is_the_photograph():
    import torch

    image = torch.arange(12.0).view(1, 2, 2, 3)
    seen = list(rotate_and_flip(image, 8))
    assert torch.equal(seen[0], image)
    assert len({tuple(view.flatten().tolist()) for view in seen}) == 8


def test_scales_undo_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    grades = (shares.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    assert fit_scales(4 * logits, grades) == pytest.approx(0.25, abs=0.03)


def test_what_is_measured_is_not_what_the_scales_were_fitted_on():
    """On pure noise a fit flatters itself; what it was not fitted on shows it as it is."""
    rng = np.random.default_rng(0)
    logits, grades = rng.normal(0, 2, (60, 5)), rng.integers(0, 5, 60)
    job = TrainingJob(make_recipe(), "", "", 0)
    held = HeldOutLogits(logits, grades, np.arange(60))

    def loss(logits):
        return -log_softmax(logits, axis=1)[np.arange(60), grades].mean()

    fitted, row_grades, rows = average_by_row(list(cross_fit([job], [held], np.arange(60) % 5)))
    assert list(rows) == list(range(60))
    assert list(row_grades) == list(grades)
    assert loss(fitted) > loss(logits * fit_scales(logits, grades)) + 0.01
    without_first = held.only(np.arange(60) % 5 != 0)
    scales = fit_scales(without_first.logits, without_first.grades)
    assert np.allclose(fitted[::5], logits[::5] * scales)


def test_what_is_uncertain_is_referred():
    probabilities = np.array([[0.9, 0.1, 0, 0, 0], [0.4, 0.3, 0.3, 0, 0]])
    measured = measure(probabilities, np.array([0, 1]), 0.5, "held out")
    assert (measured.referred, measured.acc, measured.acc_kept) == (0.5, 0.5, 1.0)


@pytest.fixture(scope="module")
def quantised(trained, npz, tmp_path_factory):
    """The grader with its int8 form, and what the command printed."""
    folder = shutil.copytree(trained[0], tmp_path_factory.mktemp("quantised") / "grader")
    done = call("quantise", folder, "--data", npz, "--split", "test", "--most-lost", "1", "--json")
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def test_int8_is_kept_where_it_costs_little(quantised):
    out, printed = quantised
    rows = {row["name"]: row for row in map(json.loads, printed.splitlines())}
    assert rows["int8, static"]["verdict"].startswith("kept")
    assert rows["int8, static"]["megabytes"] < 0.5 * rows["float32"]["megabytes"]
    image = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    plain, small = (
        onnxruntime.InferenceSession(out / file).run(None, {"image": image})[0]
        for file in ("model.onnx", "model.int8.onnx")
    )
    assert np.abs(plain - small).max() < 0.2
    assert not np.array_equal(plain, small)


def test_a_graph_without_whole_numbers_is_not_called_quantised(trained, tmp_path):
    out, _ = trained
    assert not is_quantised(out / "model.onnx")
    write_dynamic(out / "model.onnx", tmp_path / "dynamic.onnx")
    assert is_quantised(tmp_path / "dynamic.onnx")


def test_explain_writes_a_picture_of_each_photograph(trained, tmp_path):
    out, _ = trained
    file = tmp_path / "eye.png"
    Image.fromarray(make_labelled(5)[4].read()).save(file)
    done = call("explain", out, file, "--to", tmp_path / "shown")
    assert done.exit_code == 0, done.exception
    (picture,) = (tmp_path / "shown").iterdir()
    assert picture.name in done.stdout.replace("\n", "")
    assert Image.open(picture).size == (512, 512)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    failed = call("explain", out, file, tmp_path / "broken.png", "--to", tmp_path / "other")
    assert "Photograph 2" in str(failed.exception)
    assert not (tmp_path / "other").exists()
    again = call("explain", out, file, "--to", tmp_path / "shown")
    assert "pictures of an earlier run" in str(again.exception)


def test_settings_that_change_no_weight_may_change_and_others_are_named(trained, npz, tmp_path):
    other = tmp_path / "small.yaml"
    other.write_text(RECIPE.replace("workers: 0", "workers: 1, keep: 3, checkpoint_every: 7"))
    assert call("train", other, "--data", npz, "--out", trained[0]).exit_code == 0
    other.write_text(RECIPE.replace("epochs: 2", "epochs: 3"))
    message = str(call("train", other, "--data", npz, "--out", trained[0]).exception)
    assert "another recipe (training.epochs was 2 and is 3)" in message


def test_weights_and_biases_without_a_name_is_said_before_the_folder_is_claimed(npz, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "fundus")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    done = call("train", recipe, "--data", npz, "--out", tmp_path / "out")
    assert "set WANDB_API_KEY or WANDB_MODE=offline" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_single_photograph_is_measured_and_a_person_is_sent_for(trained, tmp_path):
    one = make_labelled(1)[0]
    np.savez(tmp_path / "one.npz", test_images=one.read()[None], test_labels=np.array([one.grade]))
    predictions = tmp_path / "predictions.npz"
    done = call("evaluate", "--data", tmp_path / "one.npz", "--model", trained[0], "--predictions", predictions)
    assert "1 photographs (test)" in done.stdout
    assert "AUC is undefined" in done.stdout
    with np.load(predictions) as kept:
        card = json.loads((trained[0] / "grader.json").read_text())
        assert list(kept["referred"]) == [kept["probabilities"].max() < card["refer_below"]]


def test_what_is_no_grader_is_said(trained, npz):
    message = str(call("evaluate", "--data", npz, "--model", trained[0] / "model.onnx").exception)
    assert "is a file: give its folder" in message
    assert "s3://x/y is not a grader" in str(call("evaluate", "--data", npz, "--model", "s3://x/y").exception)


def test_what_is_done_to_photographs_has_one_order():
    written = (["contrast", "illumination"], ["illumination", "contrast", "contrast"])
    one, other = (make_recipe(images={"side": SIDE, "preparation": steps}) for steps in written)
    assert one.images == other.images
