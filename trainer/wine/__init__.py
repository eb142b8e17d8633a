"""Trains the wine regression of the stack, logs it to MLflow and registers the model."""
