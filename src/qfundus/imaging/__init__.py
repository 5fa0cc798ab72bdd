"""From a photograph to a normalised fundus disc, and its quality."""
