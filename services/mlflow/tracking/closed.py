"""What the stack does not use is closed: fewer doors, fewer that somebody forgot to lock. STACK_OPEN opens each."""

from __future__ import annotations

import re

API = r"/(?:ajax-)?api/\d+\.\d+/(?:mlflow/)?"
# Name: (paths, what it is, why it is closed).
FEATURES: dict[str, tuple[str, str, str]] = {
    "gateway": (
        rf"/gateway(?:/|$)|{API}(?:gateway(?:-proxy)?(?:/|$)|runs/create-promptlab-run$|get-online-trace-details$)",
        "the AI gateway",
        "it keeps keys of AI providers and sends requests out, and the server has no way out of its networks",
    ),
    "jobs": (
        rf"{API}(?:jobs(?:/|$)|prompt-optimization/|scorer/invoke$|scorers/online-configs?$|issues/invoke$|genai/evaluate/)",
        "MLflow's job runner",
        "its runners are off, and jobs run code with the server's rights",
    ),
    "assistant": (
        rf"{API}assistant(?:/|$)",
        "the assistant",
        "it runs programs on the server and talks to AI providers",
    ),
    "mcp": (rf"{API}mcp-servers(?:/|$)", "the registry of MCP servers", "classic ML does not use it"),
    "demo": (rf"{API}demo(?:/|$)", "the demo data", "it writes into a team's store"),
    "telemetry": (rf"{API}ui-telemetry(?:/|$)", "the pages' telemetry", "it tells an outside party who does what"),
    "signup": (
        rf"/signup/?$|{API}users/create-ui$",
        "the sign-up page",
        "accounts are made by ./stack user add or on /admin",
    ),
}


class Closed:
    """The features that are closed, as one pattern."""

    def __init__(self, opened: frozenset[str]) -> None:
        self.names = [name for name in FEATURES if name not in opened]
        self.pattern = re.compile("|".join(f"(?P<{name}>{FEATURES[name][0]})" for name in self.names) or r"(?!)")

    def find_reason(self, path: str) -> str | None:
        """Return why this path is closed, or None. `path` is decoded."""
        match = self.pattern.match(re.sub("/{2,}", "/", path))
        if match is None:
            return None
        name = str(match.lastgroup)
        _, what, why = FEATURES[name]
        switch = "STACK_JOBS=on" if name == "jobs" else f"STACK_OPEN={name}"
        return f"{what} is closed in this stack ({why}): an operator opens it by {switch} in .env"
