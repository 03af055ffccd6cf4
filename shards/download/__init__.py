"""Downloads URLs through one aria2 daemon."""
