"""How objects in the curated bucket are named."""


def object_name(content: str) -> str:
    """Name a curated DICOM object by the digest of its content."""
    return f"objects/{content[:2]}/{content}.dcm"


def instance_name(uid: str) -> str:
    """Name the index entry of a pseudonymous SOP instance UID."""
    return f"instances/{uid}.json"


def grade_name(uid: str, grade: int, grader: str, graded_on: str) -> str:
    """Name the record of one grade that one grader gave an instance on one day."""
    return f"grades/{uid}/{grade}-{grader}-{graded_on}"


def landed_name(run: str) -> str:
    """Name the record of what had landed for a run."""
    return f"runs/{run}/landed.json"


def manifest_name(run: str) -> str:
    """Name the outcomes of a run."""
    return f"runs/{run}/outcomes.parquet"


def account_name(run: str) -> str:
    """Name the account that closes a run."""
    return f"runs/{run}/account.json"
