import csv

import numpy as np
import pytest
from PIL import Image

from qfundus.errors import SetupError
from qfundus.imaging.labelled import read_labelled


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_folder(folder, rows, fields=("file", "grade")):
    folder.mkdir(exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerows(rows)
    return folder


IMAGES = np.zeros((3, 28, 28, 3), np.uint8)


def test_an_npz_file_gives_its_splits_and_grades(tmp_path):
    file = write_npz(tmp_path / "a.npz", train_images=IMAGES, train_labels=np.array([[0], [4], [2]]))
    read = read_labelled(file)
    assert [(one.split, one.grade) for one in read] == [("train", 0), ("train", 4), ("train", 2)]
    assert read[0].read().shape == (28, 28, 3)


def test_a_folder_gives_what_its_sheet_says(tmp_path):
    rows = [("Ada_Lovelace.png", 3, "Lovelace", "val"), ("b.png", 0, "", "train")]
    folder = write_folder(tmp_path / "eyes", rows, ("file", "grade", "patient", "split"))
    for name, *_ in rows:
        Image.new("RGB", (40, 30), (200, 10, 10)).save(folder / name)
    read = read_labelled(folder)
    assert [(one.grade, one.split, bool(one.patient)) for one in read] == [(3, "val", True), (0, "train", False)]
    assert read[0].read().shape == (30, 40, 3)
    assert not any("ovelace" in f"{one.name} {one.patient}" for one in read)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": IMAGES}, "3 train_images and 0 train_labels"),
        ({"train_images": IMAGES, "train_labels": np.array([0, 1])}, "3 train_images and 2 train_labels"),
        ({"train_images": IMAGES, "train_labels": np.array([0, 1, 5])}, r"train_labels\[2\].*from 0 to 4"),
        ({"train_images": IMAGES.astype(np.float32), "train_labels": np.array([0, 1, 2])}, "must be uint8"),
        ({"train_images": IMAGES[..., 0], "train_labels": np.array([0, 1, 2])}, "height, width, 3"),
        ({"train_images": IMAGES, "train_labels": np.eye(5)[:3]}, r"must be \(n, 1\)"),
        ({"other": IMAGES}, "ends in _images"),
    ],
)
def test_an_npz_file_whose_labels_and_images_do_not_match_is_refused(arrays, message, tmp_path):
    with pytest.raises(SetupError, match=message):
        read_labelled(write_npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("missing.png", 1)], "line 2: the file does not exist"),
        ([("labels.csv", "two")], "line 2: the grade must be a whole number"),
        ([("labels.csv", 1), ("labels.csv", 2)], "repeats files in lines 3: give"),
        ([("../outside.png", 1)], "outside the folder"),
        ([], "lists no photographs"),
    ],
)
def test_a_sheet_that_does_not_fit_its_folder_is_refused(rows, message, tmp_path):
    (tmp_path / "outside.png").touch()
    with pytest.raises(SetupError, match=message):
        read_labelled(write_folder(tmp_path / "eyes", rows))


def test_a_split_is_known_by_any_spelling_and_an_unknown_one_refused(tmp_path):
    fields = ("file", "grade", "split")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (one,) = read_labelled(write_folder(tmp_path, [("a.png", 1, " Test ")], fields))
    assert one.split == "test"
    with pytest.raises(SetupError, match="line 2: the split must be train, val, validation, test"):
        read_labelled(write_folder(tmp_path, [("a.png", 1, "tset")], fields))


def test_more_than_eight_bits_cannot_be_read_and_never_become_white(tmp_path):
    Image.fromarray(np.full((30, 40), 9000, np.uint16)).save(tmp_path / "a.png")
    (one,) = read_labelled(write_folder(tmp_path, [("a.png", 1)]))
    with pytest.raises(ValueError, match="8 bits"):
        one.read()


@pytest.mark.parametrize("cut", [b"", b"PK", "half", "npy"])
def test_an_npz_file_that_is_not_whole_is_refused(cut, tmp_path):
    file = write_npz(tmp_path / "a.npz", train_images=IMAGES, train_labels=np.array([0, 1, 2]))
    if cut == "npy":
        with file.open("wb") as opened:
            np.save(opened, IMAGES)
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if cut == "half" else cut)
    with pytest.raises(SetupError, match="not a MedMNIST npz file, or is incomplete"):
        read_labelled(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'file,grade\n"a.png,1\nb,2,3,4\n'])
def test_a_sheet_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(SetupError, match=r"labels\.csv"):
        read_labelled(tmp_path)


def test_what_does_not_exist_is_said(tmp_path):
    with pytest.raises(SetupError, match="does not exist"):
        read_labelled(tmp_path / "nowhere.npz")


def test_a_sheet_without_a_head_is_refused_and_nobody_in_it_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("Mueller_Hans_1961.png,2\n")
    with pytest.raises(SetupError, match="its first line has 2 columns") as refused:
        read_labelled(tmp_path)
    assert "Mueller" not in str(refused.value)
