"""Settings of an assembly."""
