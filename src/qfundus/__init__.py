"""qfundus: a nightly retrained, honestly compared grader of diabetic retinopathy."""

import os

__version__ = "0.2.0"

# ONNX Runtime collects and sends usage data from the moment it is imported; nothing leaves a hospital unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
