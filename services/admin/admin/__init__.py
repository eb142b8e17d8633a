"""The verbs of ./stack that need Python, run in a container as a client of the gateway."""
