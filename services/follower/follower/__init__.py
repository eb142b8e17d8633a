"""Fetches the versions that are to be served, and says which they are."""
