"""Invented people: realistic identities that belong to nobody."""

import random
from dataclasses import dataclass
from datetime import date, timedelta

FAMILY_NAMES = [
    "Abelard",
    "Brandvold",
    "Castellane",
    "Dorrington",
    "Eskelinen",
    "Fairweather",
    "Grünthal",
    "Halvorsen",
    "Iwasaki",
    "Jankowska",
    "Kowalczyk",
    "Lindqvist",
    "Mackenzie",
    "Novotny",
    "Okonkwo",
    "Papadakis",
    "Quintanilla",
    "Rasmussen",
    "Sokolova",
    "Thibodeaux",
    "Underhill",
    "Vasquez",
    "Wetherby",
    "Yamaguchi",
    "Zielinski",
]
GIVEN_NAMES = [
    "Adelheid",
    "Bartholomew",
    "Cordelia",
    "Desmond",
    "Evangelina",
    "Ferdinand",
    "Guinevere",
    "Horatio",
    "Isadora",
    "Jeremiah",
    "Katarina",
    "Leopold",
    "Marguerite",
    "Nathaniel",
    "Ophelia",
    "Percival",
    "Rosalind",
    "Sebastian",
    "Theodora",
    "Ulysses",
    "Valentina",
    "Winifred",
]
STREETS = ("Larchmont Avenue", "Copperfield Lane", "Old Mill Road", "Harbour Terrace", "Sycamore Crescent")


@dataclass(frozen=True)
class Patient:
    """One invented patient and the circumstances of one visit."""

    family: str
    given: str
    record_number: str
    birth_date: date
    sex: str
    address: str
    phone: str
    visited: date
    physician: str
    operator: str

    @property
    def dicom_name(self) -> str:
        """The name as DICOM writes it."""
        return f"{self.family}^{self.given}"


@dataclass(frozen=True)
class Clinic:
    """One invented clinic with its camera."""

    institution: str = "Saint Brannoc Eye Infirmary"
    department: str = "Diabetic Eye Screening, Pavilion C"
    address: str = "14 Infirmary Walk, Brannocsford"
    station: str = "FUNDUS-CAM-02"
    device_serial: str = "SN-7734-20981"
    manufacturer: str = "TOPCON"
    model: str = "TRC-NW400"


def invent_patient(rng: random.Random, visited: date) -> Patient:
    """Draw one patient with diabetes, 30 to 88 years old on the day of the visit."""
    return Patient(
        family=rng.choice(FAMILY_NAMES),
        given=rng.choice(GIVEN_NAMES),
        record_number=f"MRN{rng.randrange(10**7, 10**8)}",
        birth_date=visited - timedelta(days=rng.randrange(30 * 365, 88 * 365)),
        sex=rng.choice("FM"),
        address=f"{rng.randrange(1, 200)} {rng.choice(STREETS)}",
        phone=f"555-{rng.randrange(10**6, 10**7)}",
        visited=visited,
        physician=f"{rng.choice(FAMILY_NAMES)}^{rng.choice(GIVEN_NAMES)}^^Dr",
        operator=f"{rng.choice(FAMILY_NAMES)}^{rng.choice(GIVEN_NAMES)}",
    )
