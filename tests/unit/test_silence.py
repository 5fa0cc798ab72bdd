import os
import subprocess
import sys


def test_onnx_runtime_writes_and_sends_no_usage_data(tmp_path):
    code = "import qfundus.dicom.burned_in as b, numpy as np; b.find_text(np.zeros((64, 64, 3), np.uint8))"
    told = {**{k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=told, check=True)
    assert [file for file in tmp_path.rglob("*") if "onnxruntime" in str(file)] == []


def test_azure_s_client_tells_nobody_of_its_use():
    code = "import qfundus.quantum.backends.azure, qdk.telemetry as t; assert not t.TELEMETRY_ENABLED"
    told = {k: v for k, v in os.environ.items() if k not in {"QDK_PYTHON_TELEMETRY", "QSHARP_PYTHON_TELEMETRY"}}
    subprocess.run([sys.executable, "-c", code], env=told, check=True)
