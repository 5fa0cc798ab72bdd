"""How fast de-identification is, as ratios against named peers over the same files in the same run.

    .venv/bin/python -m benchmarks.deidentification [header] [workers] [buckets] [listing] [text] [frames] [objects]

header    one process, file to file, against pydicom's read and write alone, and against each peer
workers   two processes against one
buckets   from bucket to bucket, against what the store moves with the same client; starts an object store
listing   a run over 50 new objects, and the search for planted names, beside 100,000 old ones, against beside none
text      the search for burned-in text: recall and false alarms on planted text, and its cost for each image
frames    memory above the start for a 2 GB multi-frame object
objects   memory for 100,000 objects against 1,000
"""

import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
from PIL import Image, ImageDraw, ImageFont

from benchmarks import run_named
from qfundus.deidentify_folder.run import deidentify_folder
from qfundus.dicom.burned_in import find_text
from qfundus.dicom.clean import ROUNDS
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.deidentify import deidentify
from qfundus.dicom.policy import load_policy
from qfundus.features.extract import extract_features
from qfundus.hospital.photographs import Photographs, draw_phantoms
from qfundus.hospital.wrap import to_bytes, wrap_photographs
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.curation import Curation
from qfundus.layout import checkout, policy_file
from qfundus.object_names import PLANTED_RECENT
from qfundus.planted.leaks import search_planted
from qfundus.planted.patients import plant_patients
from qfundus.platform.supervision import start_platform, stop_platform
from qfundus.security.keys import SiteKey
from qfundus.settings import Settings, load_settings
from qfundus.site import Site
from qfundus.storage import ObjectStore, to_json

DATA = Path(os.environ.get("QFUNDUS_TEST_DATA", checkout().parent / "shared" / "data"))
KEY = SiteKey(bytes(range(32)))
TURNS = 7


def main() -> None:
    """Run the benchmarks that are named, or all."""
    named = (header, workers, buckets, listing, text, frames, objects)
    run_named({benchmark.__name__: benchmark for benchmark in named}, __doc__)


def header() -> None:
    """Compare the header path, one process, the same files in turn, with reading and writing alone and each peer."""
    policy = CompiledPolicy(load_policy(policy_file()))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source, target = Path(folder, "in"), Path(folder, "out.dcm")
        files = write_photographs(source, 150)

        def ours(file: Path) -> None:
            with target.open("wb") as stream:
                for part in deidentify(file.read_bytes(), policy, KEY).parts():
                    stream.write(part)

        def read_and_write(file: Path) -> None:
            pydicom.dcmread(file).save_as(target)

        ways = {"qfundus": ours, "pydicom read+write": read_and_write, **peers(target)}
        rates = alternate(ways, files)
        left = {name: sum(names_its_patient(way, file, target) for file in files) for name, way in ways.items()}
    print("header path, one process:")
    for name, rate in rates.items():
        share = f"{left[name]} of {len(files)}"
        print(f"  {rates['qfundus'] / rate:5.2f} x {name:20} which leaves a name or number in {share}")


def names_its_patient(way: Callable[[Path], None], file: Path, target: Path) -> bool:
    """Return whether a photograph's patient is still named somewhere in what was made of it."""
    original = pydicom.dcmread(file, stop_before_pixels=True)
    words = (str(original.PatientName.family_name), str(original.PatientID))
    way(file)
    written = target.read_bytes()
    return any(word.encode() in written for word in words)


def peers(target: Path) -> dict[str, Callable[[Path], None]]:
    """Return each peer's own way from file to file; each does less than the profile asks for."""
    import dcm_anon
    from dcmanon import Anonymizer as DcmAnon  # pyright: ignore[reportAttributeAccessIssue]
    from deid.config import DeidRecipe
    from deid.dicom import get_identifiers, replace_identifiers
    from dicognito.anonymizer import Anonymizer
    from dicomanonymizer import anonymize_dataset

    cognito, rust, recipe, uids = Anonymizer(), DcmAnon(), DeidRecipe(), dcm_anon.UIDMapper()

    def dicognito(file: Path) -> None:
        dataset = pydicom.dcmread(file)
        cognito.anonymize(dataset)
        dataset.save_as(target)

    def dicom_anonymizer(file: Path) -> None:
        dataset = pydicom.dcmread(file)
        anonymize_dataset(dataset)
        dataset.save_as(target)

    def deid(file: Path) -> None:
        found = get_identifiers([str(file)])
        [done] = replace_identifiers([str(file)], deid=recipe, ids=found, save=False)
        done.save_as(target)

    return {
        "dicognito": dicognito,
        "dicom-anonymizer": dicom_anonymizer,
        "deid": deid,
        "dcmanon": lambda file: void(target.write_bytes(rust.anonymize(str(file)))),
        "dcm-anonymizer": lambda file: void(dcm_anon.anonymize_file(file, target, uids)),
    }


def void(_: object) -> None:
    """Drop what a call returns."""


def alternate(ways: dict[str, Callable[[Path], None]], files: list[Path]) -> dict[str, float]:
    """Return the median rate of each way, every round over all files and each way in turn."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            started = time.perf_counter()
            for file in files:
                way(file)
            rates[name].append(len(files) / (time.perf_counter() - started))
    return {name: median(found[1:]) for name, found in rates.items()}  # the first round warms up


def workers() -> None:
    """Compare two processes with one, whole folders, pixels trusted."""
    policy = load_policy(policy_file()).trusting_pixels()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        write_photographs(Path(folder, "in"), 1500)
        for turn in range(3):
            for number, taken in seconds.items():
                done = deidentify_folder(
                    Path(folder, "in"), Path(folder, f"{turn}-{number}"), policy, KEY, workers=number
                )
                taken.append(done.seconds)
    print(f"two processes: {median(seconds[1]) / median(seconds[2]):.2f} x one")


def buckets() -> None:
    """Compare a run of ingestion, its pixels trusted, with copying the same objects, in turn."""
    with object_store() as settings, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store = ObjectStore(settings)
        files = write_photographs(Path(folder, "in"), 300)
        policy = CompiledPolicy(load_policy(policy_file()).trusting_pixels())
        times: dict[str, list[float]] = {"copy": [], "requests": [], "curate": []}
        for number in range(3):
            for file in files:
                store.put("landing", f"{number}/{file.name}", file.read_bytes())
            names = [found.name for found in store.list("landing")]
            begun = time.perf_counter()
            with ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda name: store.put("models", name, store.get("landing", name)), names))
            times["copy"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            with ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda name: request_as_curation_does(store, name), names))
            times["requests"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            curate_landed(Curation(Site(settings, store, SiteKey(bytes([number]) * 32)), policy, f"run-{number}"))
            times["curate"].append(time.perf_counter() - begun)
            store.delete_all("landing", names)
    copy, requests, curate = (median(taken) for taken in times.values())
    print(f"from bucket to bucket: {copy / curate:.2f} x the store's own copy with the same client")
    print(f"  the requests alone that keep it exactly once, the identity sealed: {copy / requests:.2f} x that copy")


def request_as_curation_does(store: ObjectStore, name: str) -> None:
    """Ask the store for what a photograph costs: is it known, its bytes, the vault, the object and the index."""
    store.find("curated", f"none/{name}")
    data = store.get("landing", name)
    for place, content in (("vault", data[:300]), ("object", data), ("index", data[:500])):
        store.put_if_absent("models", f"{place}/{name}", content)


def listing() -> None:
    """Compare a run over fifty new objects in a store with 100,000 old ones with the same in an empty store."""
    with object_store() as settings, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        store = ObjectStore(settings)
        files = write_photographs(Path(folder, "in"), 50)
        seconds = {"run": [0.0] * 3, "search": [0.0] * 3}
        for number in range(3):  # the first warms up
            for file in files:
                store.put("landing", file.name, file.read_bytes())
            site = Site(settings, store, SiteKey(bytes([number]) * 32))
            begun = time.perf_counter()
            ingest(site, f"run-{number}")
            seconds["run"][number] = time.perf_counter() - begun
            # The search looks for its own run's names alone.
            [*_, recent] = store.find_json("curated", PLANTED_RECENT)
            store.put("curated", PLANTED_RECENT, to_json([recent]))
            begun = time.perf_counter()
            search_planted(site, "ingest_fundus", f"run-{number}")
            seconds["search"][number] = time.perf_counter() - begun
            if number == 1:
                with ThreadPoolExecutor(16) as pool:
                    list(
                        pool.map(lambda n: store.put("curated", f"instances/2.25.{n:030d}.json", b"{}"), range(100_000))
                    )
        begun = time.perf_counter()
        old = sum(1 for _ in store.list("curated", "instances/"))
        listed = time.perf_counter() - begun
    for name, (_, alone, beside) in seconds.items():
        print(f"beside {old:,} old objects the {name} takes {beside / alone:.2f} x the time of one beside none")
    print(f"  listing them all takes {listed / seconds['run'][1]:.2f} x as long as that run")


def ingest(site: Site, run: str) -> None:
    """Do what a night does between fetching and searching."""
    policy = CompiledPolicy(load_policy(policy_file()))
    plant_patients(site, run)
    curated = curate_landed(Curation(site, policy, run))
    extract_features(site, run, curated.manifest, datetime.now(UTC).replace(microsecond=0))
    close_run(site, run, curated.manifest)


@contextmanager
def object_store() -> Generator[Settings]:
    """Run the embedded platform in a folder of its own, for its object store."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="qfb-") as folder:
        os.environ.update(QFUNDUS_HOME=f"{folder}/state", HOME=folder)
        try:
            start_platform()
            yield load_settings()
        finally:
            stop_platform()
            os.environ.clear()
            os.environ.update(before)


def text() -> None:
    """Measure recall and false alarms of the search for burned-in text, and how much of the letters it blacks out."""
    rng = random.Random(0)
    for name, images in photographs().items():
        planted = [plant(image, rng, (0.02, 0.05)) for image in images for _ in range(4)]
        print(f"burned-in text on {name}:")
        for on, where in ((False, "off the disc"), (True, "on it")):
            shares = [blacked_out(text) for text in planted if text.on_disc is on]
            print(f"  {where}: {tell(shares)}")
        started = time.perf_counter()
        alarms = sum(bool(find_text(image)) for image in images)
        cost = (time.perf_counter() - started) / len(images)
        print(f"  false alarms on {alarms} of {len(images)} images; {cost * 1e3:.0f} ms an image")
    for side in (2048, 3888):
        large = [
            np.asarray(Image.fromarray(image).resize((side, side))) for image in next(iter(photographs().values()))
        ]
        small = [plant(large[n], rng, (size / side, size / side), off=True) for size in (14, 18, 24) for n in range(8)]
        print(f"letters of 14 to 24 pixels on photographs of {side}: {tell([blacked_out(text) for text in small])}")
        print(f"  false alarms on {sum(bool(find_text(image)) for image in large[:4])} of 4")


def tell(shares: list[float]) -> str:
    """Say of how many texts something was blacked out, and of how many nearly all."""
    found, whole = (sum(share > least for share in shares) for least in (0, 0.9))
    return f"{found} of {len(shares)} found, {whole} blacked out to nine tenths or more of their letters"


def blacked_out(planted: "PlantedText") -> float:
    """Return the share of a text's pixels that are black after as many rounds as an object gets."""
    image, black = planted.image.copy(), np.zeros(planted.letters.shape, bool)
    for _ in range(ROUNDS):
        for box in find_text(image):
            black[box.top : box.bottom, box.left : box.right] = True
        image[black] = 0
    return float(black[planted.letters].mean())


FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "cmtt10.ttf",
    "STIXGeneral.ttf",
)
TEXTS = ("Grünthal, Cordelia", "MRN4827193", "12.03.1957", "KOWALCZYK^Desmond", "DOB 1957-03-12", "Dr Okonkwo 09:17")
COLOURS = ((255, 255, 255), (255, 255, 0), (0, 255, 0), (200, 200, 200), (255, 60, 60), (110, 110, 110))


@dataclass(frozen=True)
class PlantedText:
    """An image `(height, width, 3)` with a text on it, and where its letters are `(height, width)`."""

    image: np.ndarray
    letters: np.ndarray
    on_disc: bool


def plant(image: np.ndarray, rng: random.Random, sizes: tuple[float, float], *, off: bool = False) -> PlantedText:
    """Write a text of some font, colour and rotation onto an image; its height is a share of the image's."""
    import matplotlib as mpl

    height, width = image.shape[:2]
    size = max(11, int(height * rng.uniform(*sizes)))
    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/{rng.choice(FONTS)}", size)
    words = rng.choice(TEXTS)
    _, _, right, bottom = font.getbbox(words)
    mask = Image.new("L", (int(right) + 8, int(bottom) + 8))
    ImageDraw.Draw(mask).text((4, 4), words, fill=255, font=font)
    mask = mask.rotate(rng.choice((0, 0, 0, 90, 180, 270, 15, -30)), expand=True)
    mask.thumbnail((width - 4, height - 4))
    on_disc = not off and rng.random() < 0.5
    if on_disc:
        left, top = (int((full - part) / 2) for full, part in zip((width, height), mask.size, strict=True))
    else:
        left, top = rng.choice((1, width - mask.width - 1)), rng.choice((1, height - mask.height - 1))
    picture, letters = Image.fromarray(image), Image.new("L", (width, height))
    picture.paste(Image.new("RGB", mask.size, rng.choice(COLOURS)), (left, top), mask)
    letters.paste(mask, (left, top))
    return PlantedText(np.asarray(picture), np.asarray(letters) > 127, on_disc)


def frames() -> None:
    """Measure the memory that a 2 GB multi-frame object takes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        write_multiframe(source / "large.dcm", gigabytes=2)
        peak = peak_memory(source, Path(folder, "out"))
        (source / "large.dcm").unlink()
        write_multiframe(source / "small.dcm", gigabytes=0.001)
        start = peak_memory(source, Path(folder, "out2"))
    print(f"a 2 GB multi-frame object: {peak - start:.0f} MB above a small one")


def objects() -> None:
    """Measure the memory that 100,000 objects take against 1,000."""
    peaks: list[float] = []
    for number in (1000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            write_small_objects(Path(folder, "in"), number)
            peaks.append(peak_memory(Path(folder, "in"), Path(folder, "out")))
    print(f"100,000 objects: {peaks[1] / peaks[0]:.2f} x the memory of 1,000")


def peak_memory(source: Path, target: Path) -> float:
    """De-identify a folder in a process of its own; return that process's peak in MB."""
    code = (
        "import resource, sys; from pathlib import Path; from benchmarks.deidentification import *;"
        "deidentify_folder(Path(sys.argv[1]), Path(sys.argv[2]), load_policy(policy_file()).trusting_pixels(), KEY);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def photographs() -> dict[str, list[np.ndarray]]:
    """Return the real photographs at hand, else drawn ones."""
    chase = sorted((DATA / "chasedb1").glob("*.jpg"))
    if not chase:
        return {"phantom eyes": draw_phantoms(28, size=960).images}
    small = np.load(DATA / "retinamnist" / "retinamnist-train-val.npz")["val_images"]
    return {
        "CHASE_DB1": [np.asarray(Image.open(file).convert("RGB")) for file in chase],
        "RetinaMNIST, enlarged": [
            np.asarray(Image.fromarray(i).resize((560, 560), Image.Resampling.BICUBIC)) for i in small
        ],
    }


def write_photographs(folder: Path, number: int) -> list[Path]:
    """Wrap photographs of about a quarter of a megabyte as a hospital would."""
    folder.mkdir()
    images = next(iter(photographs().values()))
    larger = [np.asarray(Image.fromarray(image).resize((1400, 1345), Image.Resampling.BICUBIC)) for image in images]
    few = Photographs([larger[n % len(larger)] for n in range(number)], [0] * number, "benchmark")
    for eye in wrap_photographs(few, burned_share=0):
        (folder / eye.file_name).write_bytes(eye.data)
    files = sorted(folder.iterdir())
    print(f"{len(files)} files of {sum(f.stat().st_size for f in files) / len(files) / 1e3:.0f} KB")
    return files


def write_multiframe(file: Path, gigabytes: float) -> None:
    """Write an uncompressed multi-frame object of a given size, without holding it in memory."""
    [eye] = wrap_photographs(draw_phantoms(1, size=1024), burned_share=0)
    dataset = pydicom.dcmread(io.BytesIO(eye.data))
    dataset.decompress()
    frame = dataset.PixelData
    dataset.NumberOfFrames = max(1, int(gigabytes * 1e9 / len(frame)))
    whole = len(frame) * dataset.NumberOfFrames
    dataset.PixelData = b""
    head = to_bytes(dataset)
    with file.open("wb") as stream:
        stream.write(head[:-4] + whole.to_bytes(4, "little"))
        for _ in range(dataset.NumberOfFrames):
            stream.write(frame)


def write_small_objects(folder: Path, number: int) -> None:
    """Write many tiny objects with UIDs of their own."""
    [eye] = wrap_photographs(draw_phantoms(1, size=64), burned_share=0)
    dataset = pydicom.dcmread(io.BytesIO(eye.data))
    uid = str(dataset.SOPInstanceUID).encode()
    for n in range(number):
        part = folder / f"{n // 1000:03d}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{n}.dcm").write_bytes(eye.data.replace(uid, uid[:-6] + b"%06d" % n))


if __name__ == "__main__":
    main()
