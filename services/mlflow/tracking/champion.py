"""What says that a version of a model is in production, and who changes that waits for whom.

(`artifacts`, which brings deleted versions back, has a copy of this file: Dockerfile.)
"""

from __future__ import annotations

ALIAS = "production"
PRODUCTION, ARCHIVED = "Production", "Archived"  # MLflow's stages
# Of a lock in MLflow's database, with the hash of the model's name. Any number; "prom" in ASCII.
LOCK = 0x70726F6D
WAIT_SECONDS = 10
