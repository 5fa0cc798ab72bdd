"""One pipeline step a file: its signature, its docstring, one call into `qfundus`."""

from qfundus import __version__

# The image holds qfundus and kfp; where it is pulled from is the cluster's business.
IMAGE = f"qfundus/pipeline:{__version__}"
