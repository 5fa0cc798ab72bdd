from qfundus.features.snapshot import choose_split
from qfundus.recipes.nightly import Splits


def test_a_patient_stays_in_one_split_when_the_others_come_and_go(key):
    splits = Splits(train=0.7, validation=0.15, test=0.15)
    first = {f"P{n}": choose_split(key, f"P{n}", splits) for n in range(1000)}
    again = {f"P{n}": choose_split(key, f"P{n}", splits) for n in range(500, 1500)}
    assert all(first[p] == again[p] for p in first.keys() & again.keys())
    assert 650 < sum(split == "train" for split in first.values()) < 750
