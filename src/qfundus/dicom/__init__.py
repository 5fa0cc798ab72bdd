"""Reading, de-identifying and writing DICOM objects."""

import logging
import warnings

from pydicom import config

# pydicom quotes the values that it finds wrong, in warnings and in its log: a value may be a name.
config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")
