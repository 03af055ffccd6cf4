"""The processes of a run: groups, rendezvous and heartbeats."""
