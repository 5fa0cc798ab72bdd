"""De-identify a folder or a zip file, without any server."""
