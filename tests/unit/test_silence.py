import os
import subprocess
import sys
from pathlib import Path

import pytest
from products import product

from qfundus.layout import recipe_file


def test_onnx_runtime_writes_and_sends_no_usage_data(tmp_path):
    code = "import qfundus.dicom.burned_in as b, numpy as np; b.find_text(np.zeros((64, 64, 3), np.uint8))"
    environment = {**{k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [file for file in tmp_path.rglob("*") if "onnxruntime" in str(file)] == []


@pytest.mark.slow
def test_azure_s_client_tells_nobody_of_its_use():
    code = "import qfundus.quantum.backends.azure, qdk.telemetry as t; assert not t.TELEMETRY_ENABLED"
    environment = {k: v for k, v in os.environ.items() if k not in {"QDK_PYTHON_TELEMETRY", "QSHARP_PYTHON_TELEMETRY"}}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("qubits", [11, product(4)])  # up to ten are compiled, and what was compiled is kept as well
def test_what_libraries_keep_goes_with_the_state_and_not_to_the_home_directory(qubits, tmp_path):
    home, state, recipe = tmp_path / "home", tmp_path / "state", tmp_path / "tiny.yaml"
    home.mkdir()
    recipe.write_text(recipe_file("tiny").read_text().replace("qubits: 4", f"qubits: {qubits}"))
    environment = {
        k: v for k, v in os.environ.items() if k not in {"XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"}
    }
    environment |= {"HOME": str(home), "QFUNDUS_HOME": str(state)}
    # Qiskit's compiler looks for plugins, and keeps what it has found.
    command = [Path(sys.executable).parent / "qfundus", "quantum", "plan", recipe]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert list(home.rglob("*")) == []
    assert list((state / "cache").rglob("*"))
