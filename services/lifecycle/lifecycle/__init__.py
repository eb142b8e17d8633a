"""What becomes of a registered model: compared, promoted, rolled back, and used on a file."""
