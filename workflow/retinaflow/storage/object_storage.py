"""Images, label tables and weights in S3 object storage. Clients are those of boto3."""

import itertools
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES
from retinaflow.storage.files import digest, whole_file

log = logging.getLogger(__name__)

SCHEME = "s3://"
# Objects that are fetched at the same time. boto3 keeps ten connections.
FETCH_THREADS = 8
SIGNATURE_VARIABLE = "RETINAFLOW_S3_SIGNATURE_VERSION"  # boto3 has no variable for it.
LONGEST_FILE_NAME = 255 - len(".part-")  # Bytes of a file name, without the prefix of an incomplete file.
NO_NAME = {"\\", "\0"}


@dataclass(frozen=True)
class Stored:
    """An object in the storage: bucket and key, name relative to the listed folder, and state (ETag and size)."""

    bucket: str
    key: str
    name: str
    etag: str
    size: int


# Environment variable of boto3 for each setting of Snakemake's storage plugin.
VARIABLES = {
    "endpoint_url": "AWS_ENDPOINT_URL_S3",
    "region": "AWS_DEFAULT_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "retries": "AWS_MAX_ATTEMPTS",
    "signature_version": SIGNATURE_VARIABLE,
}


def environment(settings: Any) -> dict[str, str]:
    """Environment variables that give ``client`` in another process the same settings. Others are left out."""
    given = {variable: getattr(settings, name) for name, variable in VARIABLES.items()}
    return {variable: str(value) for variable, value in given.items() if value is not None}


def client() -> Any:
    """Create an S3 client with the settings and credentials of the environment, or of other places that boto3 reads."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", config=Config(signature_version=os.environ.get(SIGNATURE_VARIABLE), retries={"mode": "standard"})
    )


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address in a storage, rather than a file or folder."""
    return "://" in path


def fault(url: str) -> str:
    """Fault in the form of the address ``url``. Empty if there is none."""
    if not url.startswith(SCHEME):
        return (
            f"{url!r}: only {SCHEME}bucket/key is fetched from a storage; fetch the data yourself and name the file or "
            "folder"
        )
    steps = url.removeprefix(SCHEME).removesuffix("/").split("/")
    if any(step in ("", ".", "..") for step in steps):
        return f"{url!r}: expected {SCHEME}bucket/key without empty steps, '.' or '..'"
    return ""


def split_archive_url(url: str) -> tuple[str, str] | None:
    """Split an address into an archive and a place inside it: ``s3://b/a.zip/train`` is ``("s3://b/a.zip", "train")``.

    None for an address without an archive.
    """
    bucket, *steps = url.removeprefix(SCHEME).removesuffix("/").split("/")
    for end, step in enumerate(steps, start=1):
        if step.lower().endswith(".zip"):
            return SCHEME + "/".join([bucket, *steps[:end]]), "/".join(steps[end:])
    return None


def find(client: Any, url: str) -> Stored:
    """Find the object ``url``.

    Raises:
        RetinaflowError: The object does not exist, or the storage cannot be reached or refuses.
    """
    bucket, key = _place(url)
    with _explained(url):
        answer = client.head_object(Bucket=bucket, Key=key)
    return Stored(bucket, key, key.rsplit("/", 1)[-1], answer["ETag"], answer["ContentLength"])


def check_folder(client: Any, url: str) -> None:
    """Check by one request that objects exist below ``url``. Errors are those of ``find_below``."""
    bucket, key = _place(url)
    with _explained(url):
        answer = client.list_objects_v2(Bucket=bucket, Prefix=_prefix(key), MaxKeys=1)
    if not answer.get("Contents"):
        raise _nothing_below(url)


def find_below(client: Any, url: str) -> list[Stored]:
    """List all objects below the folder ``url``, sorted by name, with one request for a thousand objects.

    Hidden objects, and objects that represent folders, are left out.

    Raises:
        RetinaflowError: There are no objects, the name of an object leads out of the folder or cannot be that of a
            file, or the storage cannot be reached or refuses.
    """
    bucket, key = _place(url)
    prefix = _prefix(key)
    found = []
    with _explained(url):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                if name and not name.endswith("/"):
                    found.append(Stored(bucket, entry["Key"], name, entry["ETag"], entry["Size"]))
    _check_names(url, found)
    visible = [item for item in found if not any(step.startswith(".") for step in item.name.split("/"))]
    if not visible:
        raise _nothing_below(url)
    return sorted(visible, key=lambda item: item.name)


def state(stored: list[Stored]) -> str:
    """Digest (32 hexadecimal digits) that changes with the names and contents of objects."""
    return digest("".join(f"{item.name}\0{item.etag}\0{item.size}\0" for item in stored).encode("utf-8"))


def fetch_folder(client: Any, url: str, *, target: Path, max_bytes: int) -> int:
    """Fetch all objects below ``url`` as the folder ``target``, which appears after all of them are complete.

    Each object stays as a hard link in the folder ``.cache`` beside ``target``, under a digest of its state. Objects in
    the cache, also those of an interrupted attempt, are not fetched again.

    Returns:
        The number of objects that were fetched.

    Raises:
        RetinaflowError: ``find_below`` fails, the objects have more than ``max_bytes``, or an object changes meanwhile.
    """
    stored = find_below(client, url)
    total = sum(item.size for item in stored)
    if total > max_bytes:
        raise RetinaflowError(
            f"{url}: {total} bytes are more than the {max_bytes} allowed. If this is right, raise data.unpack_limit."
        )
    cache = target.parent / ".cache" / target.name
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {digest(f"{item.key}\0{item.etag}".encode()): item for item in stored}
    missing = {name: item for name, item in wanted.items() if not (cache / name).exists()}
    log.info("%s: %d objects of %.3f GB, %d of them to fetch", url, len(stored), total / 1e9, len(missing))
    pool = ThreadPoolExecutor(FETCH_THREADS)
    try:
        for _ in pool.map(lambda name: _fetch(client, missing[name], target=cache / name, parallel=False), missing):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    _lay_out(wanted, cache, target)
    for file in cache.iterdir():
        if file.name not in wanted:
            file.unlink()
    return len(missing)


def fetch_file(client: Any, url: str, target: Path) -> None:
    """Fetch the object ``url`` as ``target``. Errors are those of ``find``, and a change of the object meanwhile."""
    _fetch(client, find(client, url), target=target, parallel=True)


def fetch_table(client: Any, url: str, target: Path) -> None:
    """Fetch a label table, or an archive of one, as ``target``, unless ``target`` has the same state.

    Raises:
        RetinaflowError: ``fetch_file`` fails, or the object is too large for a label table.
    """
    found, stamp = find(client, url), target.with_name(f".{target.name}.etag")
    if found.size > TABLE_BYTES:
        raise RetinaflowError(
            f"{url}: has {found.size} bytes, expected at most {TABLE_BYTES} for a label table. Put the table beside "
            "its archive and name the table."
        )
    if target.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == found.etag:
        return
    stamp.unlink(missing_ok=True)
    _fetch(client, found, target=target, parallel=True)
    with whole_file(stamp) as part:
        part.write_text(found.etag, encoding="utf-8")


def _place(url: str) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, key = url.removeprefix(SCHEME).removesuffix("/").partition("/")
    return bucket, key


def _prefix(key: str) -> str:
    return f"{key}/" if key else ""


def _nothing_below(url: str) -> RetinaflowError:
    return RetinaflowError(
        f"{url}: there is no object below it. Expected a folder of images, or a .zip archive of one. Correct the "
        "address."
    )


def _check_names(url: str, stored: list[Stored]) -> None:
    for item in stored:
        steps = item.name.split("/")
        odd = any(step in ("", ".", "..") or len(step.encode()) > LONGEST_FILE_NAME for step in steps)
        if odd or NO_NAME & set(item.name):
            raise RetinaflowError(
                f"{url}: the object {item.key[:200]!r} has an empty or very long step, '.', '..', a backslash or NUL "
                "in its name, which a file cannot have. Rename or delete it."
            )
    # In sorted order, an object below another one follows directly after it.
    for first, following in itertools.pairwise(sorted(item.name.split("/") for item in stored)):
        if following[: len(first)] == first:
            raise RetinaflowError(
                f"{url}: {'/'.join(first)[:200]!r} is an object and a folder of others, which a file cannot be. Rename "
                "one of them."
            )


def _fetch(client: Any, item: Stored, *, target: Path, parallel: bool) -> None:
    from boto3.s3.transfer import TransferConfig

    url = f"{SCHEME}{item.bucket}/{item.key}"
    with _explained(url), whole_file(target) as part:
        client.download_file(item.bucket, item.key, str(part), Config=TransferConfig(use_threads=parallel))
        if client.head_object(Bucket=item.bucket, Key=item.key)["ETag"] != item.etag:
            raise RetinaflowError(f"{url}: changed while it was fetched; run again.")


def _lay_out(wanted: dict[str, Stored], cache: Path, target: Path) -> None:
    part = target.with_name(f".part-{target.name}")
    for left_behind in (part, target):
        shutil.rmtree(left_behind, ignore_errors=True)
    try:
        for name, item in wanted.items():
            place = part / item.name
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(cache / name, place)
            except OSError:  # Without hard links, nothing stays in the cache.
                os.replace(cache / name, place)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn errors of boto3 into a ``RetinaflowError``."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from s3transfer.exceptions import S3DownloadFailedError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise RetinaflowError(f"{url}: {_cure(code)} ({error}).") from error
    except NoCredentialsError as error:
        raise RetinaflowError(
            f"{url}: there are no credentials. Set SNAKEMAKE_STORAGE_S3_ACCESS_KEY and SNAKEMAKE_STORAGE_S3_SECRET_KEY"
            ", or the variables and files of the AWS tools (AWS_ACCESS_KEY_ID and so on, ~/.aws/credentials)."
        ) from error
    except (BotoCoreError, Boto3Error, S3DownloadFailedError) as error:
        raise RetinaflowError(
            f"{url}: cannot be fetched ({error}). Check that --storage-s3-endpoint-url is right and the storage can "
            "be reached, and run again."
        ) from error


def _cure(code: str) -> str:
    if code in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
        return "there is no such object or bucket; correct the address"
    if code in ("400", "401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        return (
            "the storage refuses: check that SNAKEMAKE_STORAGE_S3_ACCESS_KEY and SNAKEMAKE_STORAGE_S3_SECRET_KEY, or "
            "the credentials of the AWS tools, are right and may read and list the bucket"
        )
    return "the storage refuses"
