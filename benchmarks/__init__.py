"""Every claim of speed or memory is a command here that prints the ratio it claims."""
