"""`python -m admin`: the verbs of ./stack that need no access to Docker."""

from admin.cli import app

app(prog_name="./stack")
