import re

import numpy as np
import pytest

from qfundus.evaluation.gate import Verdict, judge, judge_form
from qfundus.recipes.nightly import EvaluationRecipe, GateRecipe

HOW = EvaluationRecipe(resamples=500, confidence=0.95, specificity=0.9)
GATE = GateRecipe(margin=0.02, floor=0.0)
PATIENTS = np.arange(400).astype(str)


def grader(grades, share_right, seed):
    rng = np.random.default_rng(seed)
    right = rng.uniform(size=len(grades)) < share_right
    return np.eye(5)[np.where(right, grades, rng.integers(0, 5, len(grades)))]


@pytest.fixture(scope="module")
def grades():
    return np.random.default_rng(9).integers(0, 5, 400)


def test_the_first_candidate_needs_no_champion(grades):
    verdict = judge(grader(grades, 0.6, 0), None, grades, PATIENTS, GATE, HOW, 0)
    assert verdict.passed
    assert "no version is in service yet" in verdict.reason


def test_a_candidate_no_better_than_chance_is_refused(grades):
    assert not judge(grader(grades, 0.0, 0), None, grades, PATIENTS, GATE, HOW, 0).passed


def test_a_worse_candidate_is_refused_and_a_better_one_passes(grades):
    good, bad = grader(grades, 0.8, 1), grader(grades, 0.4, 2)
    assert not judge(bad, good, grades, PATIENTS, GATE, HOW, 0, "3").passed
    better = judge(good, bad, grades, PATIENTS, GATE, HOW, 0, "3")
    assert better.passed
    assert "version 3" in better.reason


def test_the_champion_itself_is_not_worse_than_itself(grades):
    same = grader(grades, 0.6, 1)
    verdict = judge(same, same, grades, PATIENTS, GATE, HOW, 0, "3")
    assert verdict.passed
    assert verdict.difference == verdict.difference_low == 0


def test_a_verdict_survives_travel(grades):
    verdict = judge(grader(grades, 0.6, 0), None, grades, PATIENTS, GATE, HOW, 0)
    assert Verdict.from_json(verdict.to_json()) == verdict


def spoil_ten(grades):
    return np.eye(5)[np.where(np.arange(len(grades)) < 10, (grades + 1) % 5, grades)]


def test_a_form_that_grades_worse_is_refused():
    grades = np.arange(200) % 5
    plain, worse = np.eye(5)[grades], spoil_ten(grades)

    def judged(form, max_drop):
        return judge_form(form, plain, grades, PATIENTS[:200], max_drop, HOW, seed=0)

    assert str(judged(plain, 0.0)) == "kept: accuracy drops by 0.000 (0.000 to 0.000)"
    # 5 % are lost in these eyes; in others it may be more.
    assert re.fullmatch(
        r"refused: kappa drops by 0\.0\d+ \(.*\); at most 0\.06 is allowed; more photographs would narrow the interval",
        str(judged(worse, 0.06)),
    )
    assert str(judged(worse, 0.01)).endswith("at most 0.01 is allowed")  # no number of photographs would help
    assert judged(worse, 0.3).accepted


def test_a_form_is_judged_by_patients():
    """The same ten photographs are less evidence where they are one patient's."""
    grades = np.arange(200) % 5
    alone, together = ((np.arange(200) // eyes).astype(str) for eyes in (1, 10))
    highest = [
        judge_form(spoil_ten(grades), np.eye(5)[grades], grades, patients, 1.0, HOW, seed=0).drop.high
        for patients in (alone, together)
    ]
    assert highest[0] < highest[1]
