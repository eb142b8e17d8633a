"""What a login costs: this stack beside the same gateway without one and beside stock MLflow, in one run."""
