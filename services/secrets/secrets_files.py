"""Generate the stack's secrets and hand each consumer a volume with just the files it needs.

One master copy of every secret lives in a volume that only this service mounts. From it the files of each consumer are
written at every start, readable by the consumer's user alone, so that a lost consumer volume heals itself.
"""

from __future__ import annotations

import configparser
import datetime as dt
import hashlib
import json
import os
import pwd
import re
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import certifi
import certificates
import typer
from cryptography.fernet import Fernet
from cryptography.x509.oid import ExtendedKeyUsageOID

ROOT = Path("/secrets")
MASTER = ROOT / "master"
# The operator's certificate and key, mounted here (STACK_TLS=files).
OPERATOR = ROOT / "operator"
# Who speaks with an external store; the gateway needs its authorities only.
S3_CLIENTS = ("artifacts", "backup", "bucket", "mlflow")
SYSTEM_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
MIN_LENGTH = 20
MIN_DISTINCT = 8
# Values that manuals and other stacks ship: whoever brings a secret of their own may not bring one of these.
EXAMPLES = ("minioadmin", "changeme", "password", "postgres", "example", "mlflow", "secret", "admin", "minio", "test")


def make_token() -> str:
    """Return 32 random bytes as 43 characters of A-Z a-z 0-9 _ -."""
    return secrets.token_urlsafe(32)


def make_access_key() -> str:
    """Return an S3 access key id (20 characters, as AWS's; MinIO accepts 3 to 20)."""
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(20))


GENERATORS: dict[str, Callable[[], str]] = {
    "database_mlflow_password": make_token,
    "database_auth_password": make_token,
    "database_undo_password": make_token,
    "s3_root_user": make_access_key,
    "s3_root_password": make_token,
    "s3_access_key": make_access_key,
    "s3_secret_key": make_token,
    "s3_artifacts_key": make_access_key,
    "s3_artifacts_secret": make_token,
    "s3_backup_key": make_access_key,
    "s3_backup_secret": make_token,
    "flask_secret_key": make_token,
    "kek_passphrase": make_token,
    "webhook_encryption_key": lambda: Fernet.generate_key().decode(),
    "admin_password": make_token,
    "trainer_password": make_token,
    "serving_password": make_token,
}
# Names, not secrets: with the same name, a new secret takes the place of the old one in every store.
NAMES = {"s3_root_user", "s3_access_key", "s3_artifacts_key", "s3_backup_key"}
ENCRYPT_DATA = {"kek_passphrase", "webhook_encryption_key"}
# Without these a restored stack can't read what is encrypted in its database, and knows no session of before.
KEPT_APART = (*sorted(ENCRYPT_DATA), "flask_secret_key")
NEVER_ROTATED = {
    **dict.fromkeys(ENCRYPT_DATA, "data in the database is encrypted with it"),
    **dict.fromkeys(NAMES, "it is a name: rotate the secret that belongs to it"),
}


def render_files(values: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return {consumer: {file name: content}}; the consumer is both the volume and the user that owns the files."""
    passwords = {name: f"*:*:{name}:{name}:{values[f'database_{name}_password']}\n" for name in ("mlflow", "auth")}
    pgpass = "".join(passwords.values())
    client = render_aws_credentials(values["s3_access_key"], values["s3_secret_key"])
    root = render_aws_credentials(values["s3_root_user"], values["s3_root_password"])
    tool = render_aws_credentials(values["s3_artifacts_key"], values["s3_artifacts_secret"])
    reader = render_aws_credentials(values["s3_backup_key"], values["s3_backup_secret"])
    return {
        "postgres": {f"{name}_password": values[f"database_{name}_password"] for name in ("mlflow", "auth", "undo")},
        "objectstore": {
            "root_user": values["s3_root_user"],
            "root_password": values["s3_root_password"],
            "s3.json": render_seaweedfs_identities(values),
        },
        "bucket": {
            "root_credentials": root,
            "client_credentials": client,
            "artifacts_credentials": tool,
            "backup_credentials": reader,
        },
        "migrate": {
            "pgpass": pgpass,
            "admin_password": values["admin_password"],
            "trainer_password": values["trainer_password"],
            "serving_password": values["serving_password"],
        },
        "mlflow": {
            "pgpass": pgpass,
            "aws_credentials": client,
            "flask_secret_key": values["flask_secret_key"],
            "kek_passphrase": values["kek_passphrase"],
            "webhook_encryption_key": values["webhook_encryption_key"],
        },
        # (by the second it brings back the grants of a deleted model, and does nothing else with the users' database)
        "artifacts": {
            "pgpass": f"{passwords['mlflow']}*:*:auth:undo:{values['database_undo_password']}\n",
            "aws_credentials": tool,
        },
        "admin": {"credentials": render_mlflow_credentials("admin", values["admin_password"])},
        "trainer": {"credentials": render_mlflow_credentials("trainer", values["trainer_password"])},
        "follower": {"credentials": render_mlflow_credentials("serving", values["serving_password"])},
        "backup": {
            "aws_credentials": reader,
            "keys.sha256": "".join(f"{name} {fingerprint(values[name])}\n" for name in KEPT_APART),
        },
    }


def fingerprint(value: str) -> str:
    """Return what tells a secret from another and gives nothing of it away: it has 32 random bytes."""
    return hashlib.sha256(f"mlflow-stack {value}".encode()).hexdigest()[:16]


def render_keys(values: dict[str, str]) -> str:
    """Return the secrets without which a backup is not whole, as a file that ./stack restore takes."""
    return json.dumps({name: values[name] for name in KEPT_APART}, indent=1) + "\n"


def prepare_backup(values: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return the files by which Postgres hands its WAL over, and those of an encrypted backup."""
    now = dt.datetime.now(dt.UTC)
    if not (MASTER / "backup_authority.pem").exists():
        write_file(MASTER / "backup_authority.pem", certificates.make_authority(now), "root")
    authority = (MASTER / "backup_authority.pem").read_text()
    own = certificates.render_certificate(certificates.read_authority(authority)[0])
    files: dict[str, dict[str, str]] = {}
    for name, purpose in (("backup", ExtendedKeyUsageOID.SERVER_AUTH), ("postgres", ExtendedKeyUsageOID.CLIENT_AUTH)):
        former = [ROOT / name / f"backup_{part}.pem" for part in ("cert", "key")]
        leaf = "".join(path.read_text() for path in former if path.exists())
        if not certificates.is_fit(leaf, authority, (name,), now):
            kind = certificates.Kind(name, certificates.AUTHORITY_DAYS - 1, purpose)
            leaf = certificates.make_leaf(authority, (name,), now, kind)
        certificate, begin, key = leaf.partition("-----BEGIN PRIVATE KEY-----")
        files[name] = {"backup_cert.pem": certificate, "backup_key.pem": begin + key, "backup_ca.pem": own}
    passphrase = read_passphrase()
    files["backup"] |= {"passphrase": passphrase, "keys.json": render_keys(values) if passphrase else ""}
    files["backup"] |= read_way_outside()
    return files


def read_way_outside() -> dict[str, str]:
    """Return the files by which backups go to a bucket, and messages about them to the operator's people."""
    files = {"bucket_credentials": "", "bucket_ca.pem": "", "notify": ""}
    faults = []
    try:
        if os.environ["STACK_BACKUP_S3_TO"] != "off":
            files["bucket_credentials"] = read_aws_credentials(
                OPERATOR / "backup_credentials", "STACK_BACKUP_S3_CREDENTIALS"
            )
            if not files["bucket_credentials"]:
                faults.append(
                    "STACK_BACKUP_S3_CREDENTIALS is '', but STACK_BACKUP_S3_TO is set: name a credentials file"
                )
            own = SYSTEM_AUTHORITIES if SYSTEM_AUTHORITIES.exists() else Path(certifi.where())
            given = is_given("STACK_BACKUP_S3_CA")
            files["bucket_ca.pem"] = (OPERATOR / "backup_ca.pem" if given else own).read_text()
        files["notify"] = read_notify()
    except ValueError as error:
        faults.append(str(error))
    if faults:
        sys.exit("\n".join(f"secrets: {line}" for line in faults))
    return files


def read_notify() -> str:
    """Return the URLs that messages go to, "" for none. Raises ValueError."""
    if not is_given("STACK_BACKUP_NOTIFY"):
        return ""
    shown, path = os.environ["STACK_BACKUP_NOTIFY_FILE"], OPERATOR / "backup_notify"
    content = path.read_text(errors="replace")
    if path.stat().st_mode & certificates.OTHERS_MAY:
        raise ValueError(
            f"STACK_BACKUP_NOTIFY is {shown!r}, which every user of this machine may use: chmod o= {shown}"
        )
    lines = [line.strip() for line in content.splitlines()]
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#") and not re.match(r"[a-z0-9]+://\S+$", line):
            raise ValueError(
                f"STACK_BACKUP_NOTIFY is {shown!r}, whose line {number} is no URL: write one a line, such as "
                "mailto://user:password@example.org (apprise's; # begins a comment)"
            )
    return content


def read_passphrase() -> str:
    """Return what backups are encrypted with, "" if they are not; end with a line for one that is unfit."""
    if not is_given("STACK_BACKUP_PASSPHRASE"):
        return ""
    shown, path = os.environ["STACK_BACKUP_PASSPHRASE_FILE"], OPERATOR / "backup_passphrase"
    value = path.read_text(errors="replace").strip("\n")
    fault = None
    if not re.fullmatch(r"[!-~]([ -~]{14,}[!-~])", value):
        fault = "which is not one line of 16 or more plain characters: write another"
    elif path.stat().st_mode & certificates.OTHERS_MAY:
        fault = f"which every user of this machine may use: chmod o= {shown}"
    if fault:
        sys.exit(f"secrets: STACK_BACKUP_PASSPHRASE is {shown!r}, {fault}")
    return value


def give_folder(folder: Path) -> None:
    """Make a folder of backups the backup container's, unless something is in it."""
    user = pwd.getpwnam("backup")
    if folder.is_dir() and folder.stat().st_uid != user.pw_uid and not any(folder.iterdir()):
        try:
            os.chown(folder, user.pw_uid, user.pw_gid)
            folder.chmod(0o750)
        except OSError as error:  # of a share, for example: what can't be written the backup says
            print(f"secrets: the folder of backups can't be made the user {user.pw_uid}'s: {error}", file=sys.stderr)


def render_aws_credentials(key_id: str, secret: str) -> str:
    """Return a credentials file as every AWS library reads it."""
    return f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"


def render_mlflow_credentials(username: str, password: str) -> str:
    """Return ~/.mlflow/credentials, which every MLflow client reads by itself."""
    return f"[mlflow]\nmlflow_tracking_username = {username}\nmlflow_tracking_password = {password}\n"


def render_seaweedfs_identities(values: dict[str, str]) -> str:
    """Return SeaweedFS's S3 identities: root, and three that reach the one bucket only.

    MLflow's rights are a policy, as MinIO has it (services/bucket): SeaweedFS's action "Write" on a bucket would
    include to turn its versioning off.
    """
    bucket = os.environ["STACK_BUCKET"]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{resource}"]}
            for resource, actions in (
                (bucket, ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]),
                (
                    f"{bucket}/*",
                    [
                        "s3:GetObject",
                        "s3:PutObject",
                        "s3:DeleteObject",
                        "s3:AbortMultipartUpload",
                        "s3:ListMultipartUploadParts",
                    ],
                ),
            )
        ],
    }
    return json.dumps(
        {
            "identities": [
                {
                    "name": "root",
                    "credentials": [{"accessKey": values["s3_root_user"], "secretKey": values["s3_root_password"]}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                },
                {
                    "name": "mlflow",
                    "credentials": [{"accessKey": values["s3_access_key"], "secretKey": values["s3_secret_key"]}],
                    "policyNames": ["mlflow"],
                },
                {
                    "name": "artifacts",
                    "credentials": [
                        {"accessKey": values["s3_artifacts_key"], "secretKey": values["s3_artifacts_secret"]}
                    ],
                    "actions": [f"{action}:{bucket}" for action in ("Read", "Write", "List", "Tagging")],
                },
                {
                    "name": "backup",
                    "credentials": [{"accessKey": values["s3_backup_key"], "secretKey": values["s3_backup_secret"]}],
                    "actions": [f"{action}:{bucket}" for action in ("Read", "List")],
                },
            ],
            "policies": [{"name": "mlflow", "content": json.dumps(policy)}],
        },
        indent=1,
    )


def find_fault(value: str) -> str | None:
    """Return what is wrong with a secret that somebody brought, or None."""
    if len(value) < MIN_LENGTH:
        return f"has {len(value)} characters, {MIN_LENGTH} are the least"
    if not value.isascii() or not all(character.isalnum() or character in "_-=" for character in value):
        return "may hold only A-Z a-z 0-9 _ - ="
    rest = value.lower()
    for example in EXAMPLES:
        rest = rest.replace(example, "")
    if len(set(value)) < MIN_DISTINCT or len(rest.strip("0123456789_-=")) < MIN_DISTINCT:
        return "looks like an example from a manual"
    return None


def write_file(path: Path, content: str, owner: str) -> None:
    """Write `path` for only `owner` to read; a reader sees the old or the new content, never half of it."""
    user = pwd.getpwnam(owner)
    if path.exists() and path.read_text() == content and path.stat().st_uid == user.pw_uid:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).chmod(0o400)
    os.chown(temporary, user.pw_uid, user.pw_gid)
    Path(temporary).replace(path)


def read_masters() -> dict[str, str]:
    """Return the secrets, generating those that are missing; end with a line for every one that is unfit."""
    for name, generate in GENERATORS.items():
        if not (MASTER / name).exists():
            write_file(MASTER / name, generate(), "root")
    values = {name: (MASTER / name).read_text().strip() for name in GENERATORS}
    faults = [
        f"secrets: {name} {fault}: bring another with ./stack secrets set {name}"
        for name, value in values.items()
        if name not in NAMES and (fault := find_fault(value))
    ]
    if faults:
        sys.exit("\n".join(faults))
    return values


def prepare_certificate() -> dict[str, str]:
    """Return the gateway's files: certificate and key, and the authority's certificate if it is our own."""
    mode, now = os.environ["STACK_TLS"], dt.datetime.now(dt.UTC)
    public_host = urlsplit(os.environ["STACK_PUBLIC_URL"]).hostname or ""
    if mode == "files":
        shown = os.environ["STACK_TLS_CERT"], os.environ["STACK_TLS_KEY"]
        try:
            return {
                "tls.pem": certificates.read_pair(OPERATOR / "cert.pem", OPERATOR / "key.pem", shown, public_host, now)
            }
        except certificates.CertificateError as error:
            sys.exit("\n".join(f"secrets: {line}" for line in str(error).splitlines()))
    if mode == "self-signed":
        if not (MASTER / "authority.pem").exists():
            write_file(MASTER / "authority.pem", certificates.make_authority(now), "root")
        authority = (MASTER / "authority.pem").read_text()
        names = certificates.find_names(os.environ["STACK_BIND"], public_host)
        former = ROOT / "nginx" / "tls.pem"
        leaf = former.read_text() if former.exists() else ""
        if not certificates.is_fit(leaf, authority, names, now):
            leaf = certificates.make_leaf(authority, names, now)
        own = certificates.render_certificate(certificates.read_authority(authority)[0])
        return {"tls.pem": leaf, "ca.pem": own}
    return {}


def read_operators_account() -> dict[str, str]:
    """Return the files by which an external store (STACK_OBJECTSTORE=s3) is reached: account and authorities.

    Without credentials of the operator's the account is the machine's role: AWS's library asks for it where
    this file has nothing. Without an authority of the operator's, one list serves all: this machine's, else Python's.
    """
    faults, files = [], {"s3_credentials": "", "store_ca.pem": ""}
    try:
        files["s3_credentials"] = read_aws_credentials(OPERATOR / "aws_credentials", "STACK_S3_CREDENTIALS")
    except ValueError as error:
        faults.append(str(error))
    if is_given("STACK_S3_CA"):
        try:
            certificates.read_chain("STACK_S3_CA", OPERATOR / "store_ca.pem", os.environ["STACK_S3_CA_FILE"])
            files["store_ca.pem"] = (OPERATOR / "store_ca.pem").read_text()
        except certificates.CertificateError as error:
            faults.append(str(error))
    else:
        files["store_ca.pem"] = (
            SYSTEM_AUTHORITIES if SYSTEM_AUTHORITIES.exists() else Path(certifi.where())
        ).read_text()
    if faults:
        sys.exit("\n".join(f"secrets: {line}" for line in faults))
    return files


def is_given(setting: str) -> bool:
    """Return whether an operator named a file."""
    return os.environ[f"{setting}_FILE"] not in ("", "/dev/null")


def read_aws_credentials(path: Path, setting: str) -> str:
    """Return the profile `default` of an AWS credentials file, "" if none is named. Raises ValueError."""
    if not is_given(setting):
        return ""
    shown = os.environ[f"{setting}_FILE"]
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text())
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        fault = "" if isinstance(error, configparser.Error) else f" ({error})"
        raise ValueError(
            f"{setting} is {shown!r}, which is no AWS credentials file{fault}: write [default], "
            "aws_access_key_id = ... and aws_secret_access_key = ..."
        ) from None
    wanted = ("aws_access_key_id", "aws_secret_access_key")
    profile = dict(parser["default"]) if parser.has_section("default") else {}
    if missing := [name for name in wanted if not profile.get(name)]:
        raise ValueError(f"{setting} is {shown!r}, which has no {' and no '.join(missing)} in [default]: add it")
    if path.stat().st_mode & certificates.OTHERS_MAY:
        raise ValueError(f"{setting} is {shown!r}, which every user of this machine may use: chmod o= {shown}")
    kept = {name: profile[name] for name in (*wanted, "aws_session_token") if profile.get(name)}
    return "[default]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items())


def hand_out(files_by_consumer: dict[str, dict[str, str]]) -> None:
    """Write consumers' files, each readable by its consumer only."""
    for consumer, files in files_by_consumer.items():
        folder = ROOT / consumer
        user = pwd.getpwnam(consumer)
        os.chown(folder, user.pw_uid, user.pw_gid)
        folder.chmod(0o500)
        for name, content in files.items():
            write_file(folder / name, content, consumer)


def check_name(name: str) -> str:
    """Return `name`, or end with a usage error that lists the names there are."""
    if name not in GENERATORS:
        raise typer.BadParameter(f"{name} is not a secret of this stack: {', '.join(GENERATORS)}")
    return name


app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def generate() -> None:
    """Generate what is missing and hand every consumer its files."""
    external = read_operators_account()
    values = read_masters()
    files = render_files(values)
    for consumer in S3_CLIENTS:
        files[consumer] |= external
    for consumer, more in prepare_backup(values).items():
        files[consumer] |= more
    give_folder(ROOT / "backups")
    hand_out({**files, "nginx": {**prepare_certificate(), "store_ca.pem": external["store_ca.pem"]}})


@app.command()
def certificate() -> None:
    """Check the certificate's files, or renew the stack's own, and hand them to the gateway."""
    hand_out({"nginx": prepare_certificate()})


@app.command()
def rotate(names: Annotated[list[str] | None, typer.Argument(help="default: all that can be")] = None) -> None:
    """Replace secrets by new ones."""
    chosen = [check_name(name) for name in names or sorted(GENERATORS.keys() - NEVER_ROTATED.keys())]
    if refused := [
        f"secrets: {name} can't be rotated here: {NEVER_ROTATED[name]}" for name in chosen if name in NEVER_ROTATED
    ]:
        sys.exit("\n".join(refused))
    for name in chosen:
        write_file(MASTER / name, GENERATORS[name](), "root")
    hand_out(render_files(read_masters()))


@app.command()
def give() -> None:
    """Make an empty folder, which is mounted, the backup container's."""
    give_folder(ROOT / "given")


@app.command()
def export() -> None:
    """Print the secrets without which a restored stack can't read all: keep them apart from the backups."""
    print(render_keys(read_masters()), end="")


@app.command()
def adopt() -> None:
    """Take over such secrets, on standard input, for a database that is restored."""
    try:
        brought = json.load(sys.stdin)
        values = {name: str(brought[name]) for name in KEPT_APART}
    except (ValueError, KeyError, TypeError):
        sys.exit("secrets: that is no file of ./stack secrets export: nothing was changed")
    if faults := [
        f"secrets: {name} {fault}: nothing was changed" for name in values if (fault := find_fault(values[name]))
    ]:
        sys.exit("\n".join(faults))
    for name, value in values.items():
        write_file(MASTER / name, value, "root")


@app.command("set")
def set_secret(name: Annotated[str, typer.Argument(callback=check_name)]) -> None:
    """Replace one secret by the value on standard input."""
    value = sys.stdin.read().strip()
    if fault := find_fault(value):
        sys.exit(f"secrets: {name} {fault}: nothing was changed")
    write_file(MASTER / name, value, "root")
    hand_out(render_files(read_masters()))


if __name__ == "__main__":
    app()
