import pytest

from qfundus.dicom.text import Identity, clean_text, decode

NOBODY = Identity([], [])
JANE = Identity(["Grünthal^Jane^^Dr=王^小东"], ["MRN-4827193", "Saint Brannoc Eye Infirmary"])


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
    who = JANE if text != "王小东" else Identity(["王^小东", "王小东"], [])
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
