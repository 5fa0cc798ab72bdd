"""Keys, pseudonyms and sealing."""
