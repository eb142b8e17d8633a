"""A choice stands in .env.example, in docker-compose.yml and in ./stack: the three agree."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
COMPOSE = (ROOT / "docker-compose.yml").read_text()
OVERLAYS = "".join(path.read_text() for path in sorted(ROOT.glob("compose.*.yml")))
STACK = (ROOT / "stack").read_text()
# Choices that ./stack alone acts on.
STACK_ONLY = {"STACK_MIN_FREE_MB", "COMPOSE_FILE"}
# Not an operator's choice: ./stack hands over who trains from what, and from where to where artifacts are moved.
HANDED_OVER = re.compile("STACK_GIT_COMMIT|STACK_USER|STACK_(SOURCE|TARGET)(_[A-Z_]+)?")


def test_defaults_are_the_same_in_env_example_and_compose() -> None:
    used = dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE + OVERLAYS))
    assert {name: value for name, value in used.items() if not HANDED_OVER.fullmatch(name)} == {
        name: value for name, value in EXAMPLE.items() if name not in STACK_ONLY
    }


def test_every_use_of_a_variable_in_compose_has_the_same_default() -> None:
    uses = set(re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE + OVERLAYS))
    assert len(uses) == len({name for name, _ in uses})
    assert set(re.findall(r"\$\{?([A-Z0-9_]+)", COMPOSE + OVERLAYS)) == {name for name, _ in uses}


def test_every_choice_is_checked_by_stack() -> None:
    for name in EXAMPLE.keys() - {"MINIO_IMAGE", "BASE_IMAGE", "COMPOSE_FILE"}:
        assert re.search(rf"fault \"{name} is ", STACK) or f"{name} is '$" in STACK, name


def test_every_choice_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#[A-Z0-9_]+=", line):
            before = next(text for text in reversed(lines[:number]) if not re.match(r"#[A-Z0-9_]+=", text))
            assert before.startswith("# "), line


def test_image_versions_agree() -> None:
    images = re.findall(r"image: (.*)", COMPOSE)
    assert all(image.startswith("${STACK_NAME:-mlflow-stack}/") for image in images)
    versions = {image.rsplit(":", 1)[1] for image in images} | set(re.findall(r"^version=(.+)$", STACK, re.MULTILINE))
    assert len(versions) == 1
    assert f"## {versions.pop()}" in (ROOT / "CHANGELOG.md").read_text()


def test_arguments_of_images_agree_with_compose() -> None:
    dockerfile = dict(re.findall(r"^ARG ([A-Z0-9_]+)=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert dockerfile == {name: EXAMPLE[name] for name in ("BASE_IMAGE", "MINIO_IMAGE")}


def test_the_mlflow_version_stands_once() -> None:
    pins = re.findall(r"^mlflow(?:\[auth\])?==(\S+)", (ROOT / "services/requirements.in").read_text(), re.MULTILINE)
    locked = re.findall(r"^mlflow(?:\[auth\])?==(\S+)", (ROOT / "services/requirements.txt").read_text(), re.MULTILINE)
    assert pins == locked


def test_every_image_is_a_stage_of_the_one_dockerfile() -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    services = yaml.safe_load(COMPOSE.replace("${STACK_OBJECTSTORE:-minio}", "minio"))["services"]
    assert {service["build"]["target"] for service in services.values()} <= stages
    assert "seaweedfs" in stages


def test_the_copy_of_a_release_has_all_that_git_knows() -> None:
    listed = re.findall(r"^list_release\(\) .*?for part in (.*?); do$", STACK, re.MULTILINE | re.DOTALL)[0]
    patterns = listed.replace("\\\n", " ").replace("./", "").split()
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    tops = {name.split("/")[0] for name in known if name}
    assert {top for top in tops if not any(fnmatch.fnmatch(top, pattern) for pattern in patterns)} == set()
    assert ".env" not in patterns
