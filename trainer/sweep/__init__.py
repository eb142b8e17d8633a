"""Searches hyper-parameters: trials shared by workers, each a run of MLflow."""
