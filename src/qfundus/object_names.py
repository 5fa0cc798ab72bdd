"""Names of stored objects, most of them in the curated bucket."""

WITHDRAWN = "withdrawn/"
ARCHIVE_KNOWN = "archive/known.parquet"
ARCHIVE_CURSOR = "archive/cursor.json"
PLANTED_RECENT = "planted/recent.json"


def object_name(content: str) -> str:
    """Name a curated DICOM object by the digest of its content."""
    return f"objects/{content[:2]}/{content}.dcm"


def instance_name(uid: str) -> str:
    """Name the index entry of a pseudonymous SOP instance UID."""
    return f"instances/{uid}.json"


def grade_name(uid: str, content: str, grade: int, grader: str, graded_on: str) -> str:
    """Name the record of one grade that one grader gave one content of an instance on one day."""
    return f"{grades_prefix(uid)}{content[:16]}/{grade}-{grader}-{graded_on}"


def grades_prefix(uid: str, content: str = "") -> str:
    """Name what all grades of an instance begin with, or those of one content of it."""
    return f"grades/{uid}/{content[:16]}{'/' if content else ''}"


def erasure_name(uid: str) -> str:
    """Name the mark of which run erased an instance last."""
    return f"erasures/{uid}"


def withdrawn_name(content: str) -> str:
    """Name the mark that a curated object was erased or corrected, and trains nothing from then on."""
    return f"{WITHDRAWN}{content}"


def landed_name(run: str) -> str:
    """Name the record of what had landed for a run."""
    return f"runs/{run}/landed.json"


def manifest_name(run: str) -> str:
    """Name the outcomes of a run."""
    return f"runs/{run}/outcomes.parquet"


def handling_name(handling: str) -> str:
    """Name the table of what was done with each attribute, under one policy."""
    return f"handling/{handling}.parquet"


def vault_name(patient: str, uid: str) -> str:
    """Name the vault's entry of an instance, or what all entries of a patient begin with."""
    return f"{patient}/{uid}.sealed" if uid else f"{patient}/"


PLANTED_NEWEST = "runs/planted.html"  # the page of the newest search


def planted_name(run: str) -> str:
    """Name the page that says where a run's planted patients were looked for, and what was found."""
    return f"runs/{run}/planted.html"


def account_name(run: str) -> str:
    """Name the account that closes a run."""
    return f"runs/{run}/account.json"


def last_trained_name(recipe: str) -> str:
    """Name, in the bucket of models, the record of what a recipe was last trained on."""
    return f"last_trained/{recipe}.json"
