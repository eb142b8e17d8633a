"""The servers that are measured: this stack and those of bench/compose.yml, in one compose project."""

from __future__ import annotations

from dataclasses import dataclass

from bench import gateway
from bench.client import QUESTION, Login, ask, connect, make_header
from bench.settings import Settings
from stack.deployment import Deployment, wait_until

START_SECONDS = 180.0
OK = 200


@dataclass
class Servers:
    """What is up and how to reach it."""

    deployment: Deployment
    login: Login = ("", "")

    @property
    def url(self) -> str:
        """This stack's gateway."""
        return self.deployment.url

    @property
    def network(self) -> str:
        """The network on which the gateway has clients."""
        return f"{self.deployment.name}_edge"

    def start(self) -> None:
        """Start this stack, as a user does."""
        self.deployment.check("up", "--no-train", timeout=900)
        variables = self.deployment.login()
        self.login = variables["MLFLOW_TRACKING_USERNAME"], variables["MLFLOW_TRACKING_PASSWORD"]
        self.wait(self.url)

    def restart(self) -> None:
        """Restart server and gateway, so that they remember no login and no guess."""
        self.deployment.compose("restart", "mlflow", "nginx")
        self.wait(self.url)

    def restart_database(self) -> None:
        """Restart Postgres, so that it takes settings that it reads at its start."""
        self.deployment.compose("restart", "postgres")
        self.wait(self.url)

    def start_others(self, *services: str) -> str:
        """Start services of bench/compose.yml; return the URL of the last, once it answers."""
        self.deployment.compose("up", "--detach", "--no-build", *services, timeout=START_SECONDS)
        address = self.deployment.compose("port", services[-1], "5000").strip()
        self.wait(f"http://{address}")
        return f"http://{address}"

    def start_stock_database(self) -> None:
        """Start the stock servers' own Postgres, with MLflow's tables and the same accounts in it."""
        self.deployment.compose("up", "--detach", "--no-build", "stock-postgres")
        self.deployment.compose("run", "--rm", "--no-deps", "-T", "stock-migrate", timeout=START_SECONDS)

    def stop(self, *services: str) -> None:
        """Stop services: what isn't measured is not to take time from what is."""
        self.deployment.compose("stop", *services)

    def wait(self, url: str) -> None:
        """Return when a server answers the logged-in question."""

        def is_served() -> bool:
            try:
                return ask(connect(url), make_header(self.login))[0] == OK
            except OSError:
                return False

        wait_until(is_served, f"{url}{QUESTION} is answered", START_SECONDS)


def prepare(settings: Settings) -> Servers:
    """Copy the checkout, with the bench's services laid over its own. Raises TemplateError."""
    deployment = Deployment(f"{settings.name}-main", settings.scratch / "main")
    deployment.prepare(COMPOSE_FILE="docker-compose.yml:bench/compose.yml")
    for name, write in (("nginx", gateway.drop_login), ("empty", gateway.add_empty)):
        gateway.write_twin(deployment.root / "nginx/conf", deployment.root / "bench" / name, write)
    return Servers(deployment)
