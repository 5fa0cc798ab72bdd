import time

import pytest

from qfundus.dicom.identity import Identity
from qfundus.dicom.text import clean_text, decode

NOBODY = Identity([], [], [])
JANE = Identity(["Grünthal^Jane^^Dr=王^小东"], ["MRN-4827193"], ["Saint Brannoc Eye Infirmary"])


@pytest.mark.parametrize(
    "text",
    [
        "12.03.1957",
        "1957-03-12",
        "March 12, 1957",
        "12 Mar 1957",
        "19570312",
        "3/12/57",
        "09:17:30",
        "+44 20 7946 0958",
        "(555) 123-4567",
        "jane@example.org",
        "https://example.org/jane",
        "Doe^Jane",
        "Dr. Prendergast",
        "Mrs Mary Ann Doe",
        "MRN4827193",
        "grünthal",
        "JANE",
        "x_grünthal_7",
        "王小东",
        "Brannoc",
    ],
)
@pytest.mark.parametrize("words", [None, frozenset()])
def test_what_identifies_goes_and_the_words_around_stay(text, words):
    who = JANE if text != "王小东" else Identity(["王^小东"], [], [])
    assert clean_text(f"fundus {text} retina", who, words) == "fundus retina"


@pytest.mark.parametrize("text", ["CT HEAD WITHOUT CONTRAST", "left eye, 45 degree field", "T1 axial 3D", "stage 2"])
def test_the_fields_own_words_stay_as_they_are(text):
    assert clean_text(text, NOBODY, frozenset({"45"})) == text


@pytest.mark.parametrize("text", ["TOPCON", "TRC-NW400", "Canon Inc.", "VISUCAM 524", "CLARUS 500", "3.1"])
def test_a_makers_name_stays_where_no_vocabulary_is_asked_for(text):
    assert clean_text(text, NOBODY) == text


def test_an_unknown_word_goes_where_a_vocabulary_is_asked_for():
    assert clean_text("retina of Kowalczyk", NOBODY, frozenset()) == "retina of"
    assert clean_text("retina of Kowalczyk", NOBODY, frozenset({"kowalczyk"})) == "retina of Kowalczyk"


def test_bytes_that_are_not_of_their_character_set_do_no_harm():
    assert decode(b"J\xfcrgen", ("ISO_IR 100",)) == "Jürgen"
    assert decode(b"J\xfcrgen", ("ISO_IR 192",))
    assert decode(b"J\xfcrgen", ("NO SUCH SET",))


BORN = Identity(["Zweigelt^Roswitha"], ["47112233"], [], "19610503")


@pytest.mark.parametrize(
    "text",
    [
        *("3 May '61", "3. Mai 61", "3 mayo 1961", "III.V.61", "3.V.61", "May 1961", "05/61"),
        *(
            "03_05_61",
            "03,05,61",
            "03|05|61",
            "3;5;61",
            "05 / 03 / 61",
            "3 . 5 . 61",
            "d 3 m 5 y 61",
            "\uff13.\uff15.\uff16\uff11",
        ),
        *("4711/2233", "4711.2233", "4711_2233", "4711,2233", "4711:2233", "47 11 22 33"),
        *("0172,5566,77", "0172/5566/77", "01.72.55.66.77"),
        *("93 y", "101 years", "G. Y.", "Bo Xu", "\u738b\u4f1f", "\ud76c\uc911"),
        *("daughter Rose White, Iris Stone", "seen by Rose White"),
    ],
)
def test_no_way_of_writing_a_date_a_number_or_a_name_stays(text):
    words = frozenset({"seen"})
    assert clean_text(f"fundus {text} retina", BORN, words).replace("seen ", "") in {
        "fundus retina",
        "fundus y retina",
        "fundus III retina",
        "fundus d retina",
    }


@pytest.mark.parametrize("text", ["4711-2233", "47 11 22 33", "03.05.61", "3 May 1961", "4711.2233", "05031961"])
def test_the_patients_own_numbers_go_where_no_vocabulary_is_asked_for_too(text):
    assert clean_text(f"NW400 {text} retina", BORN) in {"NW400 retina", "retina"}


@pytest.mark.parametrize("number", ["B42", "817", "S7"])
def test_a_short_record_number_goes(number):
    who = Identity([], [number], [])
    assert clean_text(f"fundus {number} left", who, frozenset()) == "fundus left"
    assert clean_text(f"fundus {number} left", who) == "fundus left"


def test_a_chinese_name_goes_where_there_are_no_spaces():
    who = Identity(["Wang^Wei=\u738b^\u4f1f"], [], [])
    assert clean_text("NW400 \u60a3\u8005\u738b\u4f1f \u738b", who) == "NW400"


@pytest.mark.parametrize("text", ["20/40 acuity", "field 45", "0.5 mm", "T2 3D", "optic disc 2x3", "6/12 left"])
def test_measures_stay(text):
    assert clean_text(text, BORN, frozenset({"acuity", "disc"})) == text


@pytest.mark.parametrize("text", ["1.10.15.2", "3.1.2", "5.0"])
def test_a_version_is_no_date(text):
    assert clean_text(text, BORN) == text


@pytest.mark.parametrize("text", ["47112233", "4711.2233", "19610503", "03051961", "610503", "-47112233.0"])
def test_a_number_may_be_the_patients(text):
    assert BORN.is_number(text) == (text != "05031961")


@pytest.mark.parametrize("text", ["0.00001", "1.000000", "0.10241", "1024.5", "0"])
def test_a_measure_that_holds_the_digits_of_a_short_number_is_none(text):
    assert not Identity([], ["1024", "00000"], []).is_number(text)


@pytest.mark.parametrize("text", ["Z w e i gelt", "Z.w.e.i.g.e.l.t", "Zwei-gelt", "_zwei_gelt_"])
def test_a_name_that_is_spelled_goes_with_all_that_is_around_it(text):
    assert clean_text(f"coil {text} 3", BORN) == ""


def test_one_letter_written_in_two_ways_is_one_letter():
    assert clean_text("coil O\u0308zil", Identity(["\u00d6zil^\u00c5se"], [], [])) == "coil"


@pytest.mark.parametrize(
    "text",
    [
        *("a1" * 16000, "a" * 32000 + "11", "ab" * 16000 + " @", "1." * 32000, "_" * 32000 + "11"),
        *("a" * 32000 + "://", "12 " * 20000, "^" * 60000, "Dr " * 20000, "1-" * 30000, "A" * 5_000_000),
    ],
    ids=lambda text: text[:4],
)
@pytest.mark.parametrize("words", [None, frozenset()])
def test_no_text_takes_a_second(text, words):
    started = time.process_time()
    clean_text(text, Identity(["Brandvold^Jane"], ["7654321"], [], "19610415"), words)
    assert time.process_time() - started < 1
