"""Serves models by MLflow's scoring protocol, each in a process of its own (also: how their copies lie on the disk)."""
