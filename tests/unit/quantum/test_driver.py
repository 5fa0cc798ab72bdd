"""A device behind a driver process over shared memory: the example plug-in, and QuEST."""

import os
import signal
import sys
import time

import numpy as np
import pytest

from qfundus.errors import Retry, SetupError
from qfundus.layout import checkout
from qfundus.quantum import chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.backends.driver import Driver
from qfundus.quantum.gates import lower

EXAMPLE = checkout() / "examples" / "qpu"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example, as pip would install it: on the path, with its entry points beside it."""
    import tomllib

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    [(name, module)] = project["entry-points"]["qfundus.backends"].items()
    known = tmp_path / "example_qpu-0.1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: example-qpu\nVersion: 0.1.0\n")
    (known / "entry_points.txt").write_text(f"[qfundus.backends]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "quantum.yaml"
    file.write_text("backends:\n  ours: {through: example_qpu, qubits: 6}\n")
    return open_backend("ours", file)


def test_a_plug_in_of_one_s_own_joins_by_its_entry_point_and_measures(installed):
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(3)
    circuit.ry(2 * np.pi / 3, 0)
    circuit.cx(0, 2)
    circuit.cx(2, 1)
    circuit.measure_all()
    [result] = installed.sampler.run([circuit], shots=8000).result()
    counts = result.data.meas.get_counts()
    assert set(counts) == {"000", "111"}
    assert abs(counts["111"] / 8000 - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 8000)
    wide = QuantumCircuit(7)
    wide.measure_all()
    with pytest.raises(ValueError, match="takes 6 qubits"):
        installed.sampler.run([wide]).result()


@pytest.fixture
def driver():
    opened = Driver([sys.executable, str(EXAMPLE / "src" / "example_qpu" / "driver.py")], "card")
    yield opened
    opened.close()


def bound(qubits=2):
    circuit = chain_ansatz(qubits, 1)
    gates = lower(circuit.assign_parameters(np.zeros(circuit.num_parameters)))
    return gates, [terms.get((), 0.0) for terms in gates.shared]


def test_a_driver_that_dies_is_a_lost_connection_and_the_next_call_starts_another(driver):
    assert driver.sample(*bound(), 10).shape == (10, 2)
    os.kill(driver._process.pid, signal.SIGKILL)  # noqa: SLF001  (as the kernel would)
    time.sleep(0.2)
    assert driver.sample(*bound(), 10).tolist() == [[0, 0]] * 10
    os.kill(driver._process.pid, signal.SIGSTOP)  # noqa: SLF001
    os.kill(driver._process.pid, signal.SIGKILL)  # noqa: SLF001  (in the middle, as far as a call can tell)
    with pytest.raises(Retry, match="connection to the device is lost"):
        driver._run()  # noqa: SLF001
    assert driver.sample(*bound(), 10).shape == (10, 2)


def test_what_a_library_prints_is_no_answer_and_silence_ends(tmp_path):
    program = tmp_path / "talks.py"
    program.write_text(
        "import time, numpy as np\nfrom driver_loop import serve\n"
        "def sample(qubits, gates, angles, shots):\n    print('hello')\n    time.sleep(9 if shots == 7 else 0)\n"
        "    return np.full((shots, qubits), shots % 2)\nserve(sample)\n"
    )
    talks = Driver([sys.executable, str(program)], "card", patience=2.0)
    assert [talks.sample(*bound(), shots)[0, 0] for shots in (1, 2, 3)] == [1, 0, 1]
    with pytest.raises(Retry, match="did not answer") as kept:  # with its traceback, which holds views of the block
        talks.sample(*bound(), 7)
    assert kept.value.__traceback__ is not None
    assert talks.sample(*bound(), 3)[0, 0] == 1
    talks.close()
    with pytest.raises(Retry, match="named no block"):
        Driver(["/bin/echo", "hello"], "card").sample(*bound(), 1)


def test_a_block_grows_with_what_it_has_to_hold(driver):
    first = driver.sample(*bound(), 10)
    many = driver.sample(*bound(), 1_000_000)
    assert (first.shape, many.shape) == ((10, 2), (1_000_000, 2))


def test_a_driver_that_does_not_start_says_so():
    with pytest.raises(Retry, match="does not start"):
        Driver(["/no/such/program"], "card").sample(*bound(), 1)
    with pytest.raises(Retry, match="is lost"):
        Driver([sys.executable, "-c", "raise SystemExit(3)"], "card").sample(*bound(), 1)


def test_what_a_device_refuses_is_said_in_its_words(tmp_path):
    program = tmp_path / "broken.py"
    program.write_text(
        "from driver_loop import serve\ndef sample(*_):\n    raise RuntimeError('the fridge is warm')\nserve(sample)\n"
    )
    broken = Driver([sys.executable, str(program)], "card")
    with pytest.raises(ValueError, match="the fridge is warm"):
        broken.sample(*bound(), 1)
    broken.close()


def test_quest_without_its_environment_says_what_to_do(monkeypatch):
    monkeypatch.setenv("QFUNDUS_QUEST_PYTHON", "/no/python")
    with pytest.raises(SetupError, match="make setup"):
        open_backend("quest")
