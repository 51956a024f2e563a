"""How alike two images are, and the search for the most alike."""
