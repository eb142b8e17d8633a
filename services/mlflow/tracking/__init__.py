"""The tracking server: unmodified MLflow with its own login and roles, two routes of ours, and signed artifact URLs."""
