"""Reading, de-identifying and writing DICOM objects."""
