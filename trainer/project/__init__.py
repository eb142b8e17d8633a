"""Runs an MLproject of a user's own with what the trainer's image has."""
