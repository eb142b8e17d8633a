"""Backups of rows and artifacts as one set, and the way back: `./stack backup` and `./stack restore`."""
