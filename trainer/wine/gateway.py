"""The way to the tracking server: reach it, and say in one line why it can't be reached or refuses."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.utils.credentials import read_mlflow_creds
from requests import HTTPError, RequestException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from wine.errors import TrainerError, show_address
from wine.settings import Settings, impatience

PATIENCE = 180.0  # seconds that `ask_patiently` goes on for
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.TOO_MANY_REQUESTS}


def connect(settings: Settings) -> MlflowClient:
    """Make a client and ask one cheap question, so that a dead gateway is found out in seconds.

    Raises:
        TrainerError: The gateway can't be reached, is no MLflow server, or refuses the login.
    """
    mlflow.set_tracking_uri(settings.tracking_uri)
    client = MlflowClient()
    with impatience(), explained(settings):
        client.search_experiments(max_results=1)
    return client


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Turn what the network, the gateway or a missing right can cause into a TrainerError; the rest passes."""
    try:
        yield
    except (MlflowException, RequestException) as error:
        line = _explain(error)
        if line is None:
            raise
        raise TrainerError(f"{show_address(settings.tracking_uri)} {line}") from error


def ask_patiently[Answer](ask: Callable[[], Answer]) -> Answer:
    """Ask again while the gateway or the server is away, for minutes.

    MLflow's own tries are over in two minutes, where the gateway answers 503 with Retry-After.
    """
    tries = Retrying(
        retry=retry_if_exception(_is_passing), stop=stop_after_delay(PATIENCE), wait=wait_fixed(2), reraise=True
    )
    return tries(ask)


def _is_passing(error: BaseException) -> bool:
    if not isinstance(error, MlflowException | RequestException):
        return False
    status = _find_status(error)
    if status is None:
        return any(isinstance(link, RequestException) for link in _unchain(error))
    return status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _explain(error: Exception) -> str | None:
    status, account = _find_status(error), read_mlflow_creds().username or "nobody"
    chain = _unchain(error)
    detail = _find_detail(chain[-1])
    if status == HTTPStatus.UNAUTHORIZED:
        where = "~/.mlflow/credentials, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return f"refuses the login of {account} (401): check the user name and password in {where}"
    if status == HTTPStatus.FORBIDDEN:
        return f"denies this to {account} (403, {detail}): ask an administrator for the right"
    if "valid JSON" in str(error) or getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND":
        return "doesn't answer as an MLflow server does: check MLFLOW_TRACKING_URI"
    if status:
        advice = "look at its log, or try again in a moment" if _is_passing(error) else "check the options"
        return f"answers {status} ({detail}): {advice}"
    if any(isinstance(link, RequestException) for link in chain):
        return f"can't be reached ({detail}): check MLFLOW_TRACKING_URI and that the stack is up"
    return None


def _find_status(error: Exception) -> int | None:
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code
    if isinstance(error, RestException):
        return int(error.get_http_status_code())
    # An answer that isn't JSON, such as the gateway's own error pages, keeps its status in the message alone.
    found = re.search(r"(?:failed with error code|too many) (\d{3})\b", str(error))
    return int(found[1]) if found else None


def _find_detail(error: BaseException) -> str:
    message = str(error) or type(error).__name__
    endpoint = re.search(r"request to endpoint (\S+) failed", message)
    return endpoint[1] if endpoint else message.splitlines()[0][:200]


def _unchain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while deeper := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(deeper)
    return chain
