"""Download URLs through one aria2 daemon."""
