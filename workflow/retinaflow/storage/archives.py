"""Images and label tables inside .zip archives, and digests of the state of folders and archives."""

import hashlib
import itertools
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from retinaflow.errors import RetinaflowError

# Exceptions of zipfile and its decompressors for a damaged, encrypted or unusual archive.
UNREADABLE = (BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error)
BYTES_AT_ONCE = 1 << 20
TABLE_BYTES = 2**26  # A label table of three million images.

DEEPEST_FOLDER = 100  # levels

Parts = tuple[str, ...]


def split_archive(path: str) -> tuple[Path, str] | None:
    """Split a path into an archive and a place inside it: ``a/b.zip/train`` is ``(Path("a/b.zip"), "train")``.

    None for a path without an archive. A folder may have the name ``x.zip``.
    """
    parts = PurePath(path).parts
    for end, part in enumerate(parts, start=1):
        archive = Path(*parts[:end])
        # Path.is_dir raises for a path that is too long or without permission.
        if part.lower().endswith(".zip") and not os.path.isdir(archive):  # noqa: PTH112
            return archive, "/".join(parts[end:])
    return None


def files_below(
    folder: str, _above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all files below ``folder`` as (name relative to it, entry), in no particular order.

    Hidden files and folders are left out. Links are followed, except back to a folder around them.

    Raises:
        RetinaflowError: A folder cannot be read, or lies too deep.
    """
    if len(_above) > DEEPEST_FOLDER:
        raise RetinaflowError(
            f"{folder[:200]}...: folders are nested deeper than {DEEPEST_FOLDER} levels. Expected a folder of images, "
            "with those of grades or patients. Move the images up."
        )
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise RetinaflowError(
            f"{folder}: cannot be read as a folder ({error.strerror}). Expected a folder of images, or a .zip "
            "archive of one. Correct the path."
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in _above:
        return
    while entries:
        entry = entries.pop()  # Frees its cache. Those of a million entries need most of a gigabyte.
        # A link to itself, or to a folder without permission, does not end the search.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):  # noqa: PTH112
            for name, file in files_below(entry.path, _above | {here}):
                yield f"{entry.name}/{name}", file
        else:
            yield entry.name, entry


def listing(path: str) -> str:
    """Digest (32 hexadecimal digits) of the state of a folder or, for ``x.zip`` and ``x.zip/folder``, of an archive.

    The digest of a folder covers name, size and time of change of every file below it. No file is read, and times of
    folders do not count. The digest of an archive covers name, size and checksum of the members in its central
    directory.

    Raises:
        RetinaflowError: The folder or archive cannot be read.
    """
    return combined(states(path))


def combined(states: Iterable[str]) -> str:
    """Digest (32 hexadecimal digits) of several texts in any order."""
    return hashlib.blake2b("".join(sorted(states)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def states(path: str) -> list[str]:
    """Texts that ``listing`` digests, one for each file."""
    located = split_archive(path)
    if located is None:
        entries = []
        for name, entry in files_below(path):
            # A broken link has no target.
            status = entry.stat(follow_symlinks=not entry.is_symlink() or os.path.exists(entry.path))  # noqa: PTH110
            entries.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0")
        return entries
    with _open(located[0]) as archive:
        members = _members(archive, located[1])
    return [f"{'/'.join(parts)}\0{member.file_size}\0{member.CRC}\0" for parts, member in members]


def listed_names(path: str) -> list[str]:
    """Names of the files below a folder or inside an archive, relative to it. It may be as ``listing`` takes it.

    Raises:
        RetinaflowError: The folder or archive cannot be read.
    """
    located = split_archive(path)
    if located is None:
        return [name for name, _ in files_below(path)]
    with _open(located[0]) as archive:
        return ["/".join(parts) for parts, _ in _members(archive, located[1])]


def unpack(source: str, target: Path, max_bytes: int) -> int:
    """Unpack an archive as the folder ``target``.

    ``target`` appears, or is replaced, after all files are complete. Files that macOS adds to archives are left out.

    Args:
        source: ``x.zip``, or ``x.zip/folder`` for a folder inside it.
        target: Folder to create.
        max_bytes: Largest size of all files together.

    Returns:
        The number of files.

    Raises:
        RetinaflowError: The archive is damaged, has nothing below the folder, or is larger than ``max_bytes``. Or a
            member leads out of ``target``, is encrypted, is no ordinary file, or has the name of another member. The
            message names the archive and the member.
    """
    path, inner = _locate(source)
    part, former = target.with_name(f".part-{target.name}"), target.with_name(f".former-{target.name}")
    for left_behind in (part, former):
        if left_behind.exists():
            shutil.rmtree(left_behind)
    with _open(path) as archive:
        members = _members(archive, inner)
        _check_members(members, path, inner=inner, max_bytes=max_bytes)
        try:
            left = max_bytes
            for parts, member in members:
                left -= _write(archive, member, target=part.joinpath(*parts), max_bytes=left)
            # Move the old folder first. A kill during its deletion must not leave half of it.
            if target.exists():
                os.replace(target, former)
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(former, ignore_errors=True)
    return len(members)


def read_member(source: str) -> bytes:
    """Content of the table in an archive: ``x.zip/folder/name.csv``, or ``x.zip`` if it has only one .csv file.

    Raises:
        RetinaflowError: The archive has no such member or several, or the member is damaged or encrypted.
    """
    path, inner = _locate(source)
    with _open(path) as archive:
        members = {"/".join(parts): member for parts, member in _members(archive, "")}
        tables = [name for name in members if name.lower().endswith(".csv")]
        wanted = [inner] if inner else tables
        if len(wanted) != 1 or wanted[0] not in members:
            raise RetinaflowError(
                f"{source}: expected one .csv table in the archive, found {', '.join(tables[:10]) or 'none'}"
                f"{', ...' if len(tables) > 10 else ''}. Name the one to read, as in "
                f"{path}/{tables[0] if tables else 'name.csv'}"
            )
        member = members[wanted[0]]
        _check_member(path, member)
        # The zipfile module never yields more than the declared size of a member.
        if member.file_size > TABLE_BYTES:
            raise _too_large(path, member, TABLE_BYTES)
        return b"".join(_chunks(path, archive, member))


def _locate(source: str) -> tuple[Path, str]:
    located = split_archive(source)
    if located is None:
        raise RetinaflowError(f"{source}: expected the path of a .zip archive, or of a folder or file inside one.")
    return located


def _open(path: Path) -> ZipFile:
    try:
        return ZipFile(path)
    except UNREADABLE as error:
        raise RetinaflowError(
            f"{path}: cannot be read as a .zip archive ({error}). It may be incomplete. Fetch or copy it again."
        ) from error


def _members(archive: ZipFile, inner: str) -> list[tuple[Parts, ZipInfo]]:
    """Files below the folder ``inner``, each with its path relative to it, without those that macOS adds."""
    prefix = _parts(inner)
    members = []
    for member in archive.infolist():
        parts = _parts(member.filename)
        if member.filename.endswith("/") or parts[: len(prefix)] != prefix or len(parts) == len(prefix):
            continue
        if "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
            continue
        members.append((parts[len(prefix) :], member))
    return members


def _parts(name: str) -> Parts:
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _check_members(members: list[tuple[Parts, ZipInfo]], path: Path, *, inner: str, max_bytes: int) -> None:
    if not members:
        place = f"below {inner!r} in the archive" if inner else "in the archive"
        raise RetinaflowError(f"{path}: no file {place}. Use the path inside the archive: {path}/folder/with/images")
    for _, member in members:
        _check_member(path, member)
    # In sorted order, a member below a file follows directly after the file.
    for parts, following in itertools.pairwise(sorted(parts for parts, _ in members)):
        if following[: len(parts)] == parts:
            raise RetinaflowError(
                f"{path}: two members would become {'/'.join(parts)[:200]!r}, expected one of each name. "
                "Make the archive again."
            )
    if sum(member.file_size for _, member in members) > max_bytes:
        raise _too_large(path, max(members, key=lambda item: item[1].file_size)[1], max_bytes)


def _check_member(path: Path, member: ZipInfo) -> None:
    if fault := _fault(member):
        raise RetinaflowError(
            f"{path}: member {member.orig_filename[:200]!r} {fault}, which is not unpacked. Expected ordinary files, "
            "stored or deflated, with names relative to the archive. Make the archive again, or unpack it yourself and "
            "name the folder."
        )


def _fault(member: ZipInfo) -> str:
    name = member.orig_filename  # `filename` ends at a NUL byte, which can hide the rest.
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "leads out of the archive's folder"
    if "\\" in name or "\0" in name:
        return "has a backslash or NUL in its name"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or another special file"
    if name.count("/") > DEEPEST_FOLDER:
        return f"lies {name.count('/')} folders deep, more than {DEEPEST_FOLDER}"
    if member.flag_bits & 1:
        return "is encrypted"
    # Other methods of zipfile decompress without a limit. 1 MiB can need 20 GiB of memory.
    if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}"
    return ""


def _write(archive: ZipFile, member: ZipInfo, *, target: Path, max_bytes: int) -> int:
    path = Path(str(archive.filename))
    written = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            for chunk in _chunks(path, archive, member):
                written += len(chunk)
                # The declared size of a member can be wrong.
                if written > max_bytes:
                    raise _too_large(path, member, max_bytes)
                file.write(chunk)
    except OSError as error:
        raise RetinaflowError(
            f"{path}: member {member.orig_filename[:200]!r} cannot be written ({error.strerror}). If "
            "the disk is full, free some space. Otherwise, unpack the archive yourself and name the folder."
        ) from error
    return written


def _chunks(path: Path, archive: ZipFile, member: ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as file:
            while chunk := file.read(BYTES_AT_ONCE):
                yield chunk
    except UNREADABLE as error:
        raise RetinaflowError(
            f"{path}: member {member.orig_filename[:200]!r} cannot be read ({error or type(error).__name__}). The "
            "archive may be incomplete or damaged. Fetch or copy it again."
        ) from error


def _too_large(path: Path, member: ZipInfo, max_bytes: int) -> RetinaflowError:
    return RetinaflowError(
        f"{path}: unpacks to more than the {max_bytes} bytes allowed. Member {member.orig_filename[:200]!r} declares "
        f"{member.file_size}. If this is right, raise the limit, or unpack the archive yourself and name the folder."
    )
