import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from trainings import make_labelled, make_recipe

from qfundus.classical.augmentation import augment
from qfundus.classical.folds import split_fold
from qfundus.classical.loader import Order, ShardDataset, load_steps
from qfundus.classical.objective import grade_weights, rank_loss, soft_targets
from qfundus.classical.parallel import Layout
from qfundus.classical.shards import ShardTable, prepare, read_table, write_shards
from qfundus.errors import SetupError
from qfundus.imaging.labelled import _check_grade, read_labelled
from qfundus.recipes.network import Augmentation, ImageFormat

CPU = torch.device("cpu")


def order(world=1, rank=0, accumulate=1, **changes):
    return Order(
        **{"rows": np.arange(50), "batch": 12, "seed": 1, **changes},
        layout=Layout(rank, world, CPU),
        accumulate=accumulate,
    )


def steps(**how):
    return [[row for _, row in piece] for piece in order(**how)]


def test_a_steps_photographs_are_the_same_however_it_is_cut():
    whole = steps()
    ranks = [steps(world=2, rank=rank, accumulate=3) for rank in (0, 1)]
    for number, step in enumerate(whole):
        pieces = [ranks[rank][3 * number + piece] for piece in range(3) for rank in (0, 1)]
        assert [row for piece in pieces for row in piece] == step


def test_an_epoch_goes_on_where_it_was_left():
    assert steps(epochs=3, epoch=1, step=2) == steps(epochs=3)[len(steps()) + 2 :]


def test_each_epoch_has_another_order():
    assert steps(epochs=2)[len(steps()) :] != steps()


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(SetupError, match="multiple of 5"):
        order(world=5)


BROKEN_PNG = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d4948445200000008") + b"\x00" * 40  # PIL: SyntaxError


@pytest.fixture
def damaged(tmp_path):
    """Shards of which every seventh photograph is no picture, or a broken one."""
    uri = str(tmp_path / "damaged.lance")
    write_shards(make_labelled(40), make_recipe().images, uri)
    table = lance.dataset(uri).to_table()
    bad = [b"no picture", BROKEN_PNG]
    images = [bad[n % 2] if n % 7 == 0 else packed.as_py() for n, packed in enumerate(table["image"])]
    replaced = table.set_column(4, table.schema.field("image"), [pa.array(images, pa.large_binary())])
    metadata = lance.dataset(uri).metadata
    lance.write_dataset(replaced, uri, mode="overwrite").update_metadata(metadata)
    return uri


def test_a_photograph_that_cannot_be_read_is_skipped_and_counted(damaged):
    grades = read_table(damaged, make_recipe().images).grades
    examples = ShardDataset(damaged, grades, 0, Augmentation())
    read = [batch for (batch,) in load_steps(examples, Order(np.arange(40), 10, 0, Layout(0, 1, CPU)), workers=0)]
    weightless = sorted(
        row for batch in read for row, weight in zip(batch.rows, batch.weights, strict=True) if not weight
    )
    assert weightless == [0, 7, 14, 21, 28, 35]
    assert all(batch.inputs.shape == (10, 32, 32, 3) for batch in read)


def test_a_batch_of_which_nothing_can_be_read_has_no_weight(damaged):
    examples = ShardDataset(damaged, read_table(damaged, make_recipe().images).grades, 0, Augmentation())
    batch = examples.__getitems__([(0, 7), (0, 14)])
    assert batch.inputs.shape == (2, 32, 32, 3)
    assert batch.weights.tolist() == [0.0, 0.0]


def test_shards_that_cannot_be_written_are_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SetupError, match="cannot be written: Generic LocalFileSystem error"):
        write_shards(make_labelled(3), make_recipe().images, str(tmp_path / "file" / "x.lance"))


def test_whole_numbers_written_otherwise_are_grades():
    assert [_check_grade(grade, "here") for grade in (1.0, "2", np.int8(3), "4.0")] == [1, 2, 3, 4]
    for wrong in ("1.5", "nan", "", "inf", 5, -1):
        with pytest.raises(SetupError, match="here"):
            _check_grade(wrong, "here")


def test_shards_prepared_otherwise_are_refused(shards):
    with pytest.raises(SetupError, match="prepare them again"):
        read_table(shards, make_recipe(images__side=64).images)


def test_shards_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(SetupError, match="No shards were found at"):
        read_table(str(tmp_path / "none.lance"), make_recipe().images)


def test_a_photograph_that_cannot_be_prepared_is_left_out(tmp_path):
    labelled = make_labelled(10)

    def fail():
        raise OSError("cannot identify image file")

    labelled[3] = type(labelled[3])("broken", 1, "", "", fail)
    uri = str(tmp_path / "p.lance")
    assert write_shards(labelled, make_recipe().images, uri) == 1
    assert "broken" not in read_table(uri, make_recipe().images).names


def test_preparation_is_what_the_recipe_says(photographs):
    pixels = photographs.images[0]
    plain, evened = (
        prepare(pixels, make_recipe(images__preparation=steps).images) for steps in ([], ["disc", "illumination"])
    )
    assert plain.shape == evened.shape == (32, 32, 3)
    assert not np.array_equal(plain, evened)


def test_augmentation_depends_on_the_key_alone():
    images = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    together = augment(images, [(0, 1, 5), (0, 1, 6), (0, 1, 7)], Augmentation())
    alone = augment(images[1:2], [(0, 1, 6)], Augmentation())
    assert (together[1].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(together[1], augment(images[1:2], [(0, 2, 6)], Augmentation())[0])


def test_no_augmentation_leaves_a_photograph_alone():
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    none = Augmentation(turn=False, mirror=False, zoom=0, shift=0, brightness=0, contrast=0, tint=0)
    assert torch.equal(augment(images, [(0,), (1,)], none), images)


def table(grades, patients=None, splits=None):
    count = len(grades)
    names = np.array([f"n{n}" for n in range(count)])

    return ShardTable(
        "", names, np.array(grades), np.array(splits or [""] * count), np.array(patients or [""] * count), "digest"
    )


def test_folds_hold_out_everything_once_and_keep_a_patient_together():
    known = table([n % 5 for n in range(60)], [f"p{n // 4}" for n in range(60)])
    held = [split_fold(known, 3, fold) for fold in range(3)]
    assert sorted(np.concatenate([out for _, out in held])) == list(range(60))
    for rows, out in held:
        assert not set(known.patients[rows]) & set(known.patients[out])


def test_the_test_split_is_in_no_fold():
    known = table([n % 5 for n in range(40)], splits=["train"] * 30 + ["test"] * 10)
    rows, held = split_fold(known, 2, 0)
    assert max(*rows, *held) < 30


def test_a_single_network_holds_out_the_validation_split():
    known = table([n % 5 for n in range(40)], splits=["train"] * 30 + ["val"] * 10)
    assert list(split_fold(known, 1, 0)[1]) == list(range(30, 40))


def test_nothing_but_a_validation_split_is_refused_with_the_remedy():
    with pytest.raises(SetupError, match=r"give a train split, or set `grading\.folds: 2`"):
        split_fold(table([n % 5 for n in range(20)], splits=["val"] * 20), 1, 0)


def test_a_photograph_is_as_it_was_held_and_keeps_its_shape(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, :40] = [250, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter when it was taken
    Image.fromarray(wide).save(tmp_path / "eye.png", exif=exif)
    (tmp_path / "labels.csv").write_text("file,grade\neye.png,1\n")
    [one] = read_labelled(tmp_path)
    pixels = one.read()
    assert pixels.shape == (80, 40, 3)
    assert pixels[10, 20, 0] > 200
    assert pixels[70, 20, 0] < 50
    square = prepare(pixels, ImageFormat(side=32))
    assert square[:, :7].max() == 0  # padded, not pulled
    assert square[4, 16, 0] > 200


def test_one_grade_alone_is_refused():
    with pytest.raises(SetupError, match="two grades"):
        split_fold(table([2] * 20), 2, 0)


def test_soft_targets_prefer_neighbours():
    targets = soft_targets(0.7, 0.05)
    assert torch.allclose(targets.sum(dim=1), torch.ones(5))
    assert targets[2, 2] > targets[2, 1] == targets[2, 3] > targets[2, 0]
    assert torch.equal(soft_targets(0.0, 0.0), torch.eye(5))


def test_the_loss_of_ranks_is_corals_and_grows_with_the_distance():
    from torch.nn import functional

    thresholds, score = torch.tensor([-2.0, -0.5, 0.5, 2.0]), torch.tensor([[0.3], [-1.0]])
    at_least = score - thresholds  # CORAL's logits of "more than k"
    chances = torch.cat([torch.ones(2, 1), at_least.sigmoid(), torch.zeros(2, 1)], dim=1)
    logits = (chances[:, :-1] - chances[:, 1:]).log()
    grades = torch.tensor([3, 0])
    wanted = (grades[:, None] > torch.arange(4)).float()
    corals = functional.binary_cross_entropy_with_logits(at_least, wanted, reduction="none").sum(dim=1)
    assert torch.allclose(rank_loss(logits, torch.eye(5)[grades]), corals, atol=1e-5)
    sure_of_one = torch.eye(5)[[1] * 5].mul(0.96).add(0.008).log()
    costs = rank_loss(sure_of_one, torch.eye(5))
    assert costs[1] < costs[2] < costs[3] < costs[4]


def test_balanced_weights_give_each_grade_the_same_say():
    grades = np.repeat([0, 1, 2, 3, 4], [50, 10, 20, 15, 5])
    weights = grade_weights(grades, 1.0).numpy()
    assert np.allclose(weights * np.bincount(grades), 20)
    assert np.allclose(grade_weights(grades, 0.0), 1)


@pytest.mark.parametrize(
    ("splits", "folds"),
    [(["train", "val"] * 10, 1), (["train", "test"] * 10, 1), (["train", "test"] * 10, 2)],
)
def test_a_patient_in_two_splits_is_refused(splits, folds):
    """What is measured on somebody who was trained on says nothing of others."""
    known = table([n % 5 for n in range(20)], ["same"] * 4 + [f"p{n}" for n in range(16)], splits)
    with pytest.raises(SetupError, match="1 patient has photographs in more than one split"):
        split_fold(known, folds, 0)


def test_folds_may_divide_anew_what_was_divided_for_training_and_validation():
    known = table([n % 5 for n in range(20)], [f"p{n // 2}" for n in range(20)], ["train", "val"] * 10)
    rows, held = split_fold(known, 2, 0)
    assert not set(known.patients[rows]) & set(known.patients[held])
