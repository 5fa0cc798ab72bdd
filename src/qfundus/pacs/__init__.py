"""The hospital's picture archive (PACS): what is pulled from it, and what it pushes."""
