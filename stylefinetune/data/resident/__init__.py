"""Pictures in the memory of the devices: all on each, or a share on each."""
