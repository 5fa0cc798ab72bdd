"""The steps that Airflow and KFP call, one a module: from plain values and files to plain values and files."""

import atexit
import gc

# At its end Python searches all that PyTorch has made for cycles, which takes seconds and frees what ends anyway.
atexit.register(gc.freeze)
