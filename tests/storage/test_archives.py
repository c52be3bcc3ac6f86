"""Archives: where they are in a path, what makes a listing change, and what is never unpacked."""

import contextlib
import io
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import ROOT
from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import files_below, listing, read_member, split_archive, unpack


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.zip/resized train 15", (Path("a/b.zip"), "resized train 15")),
        ("a/b.ZIP/x/y.csv", (Path("a/b.ZIP"), "x/y.csv")),
        ("a.zip", (Path("a.zip"), "")),
        ("a.zip/", (Path("a.zip"), "")),
        ("/a.zip/b.zip/c", (Path("/a.zip"), "b.zip/c")),
        ("a/b", None),
        ("labels.csv", None),
        ("", None),
    ],
)
def test_path_is_split_at_the_archive(path: str, expected: tuple[Path, str] | None) -> None:
    assert split_archive(path) == expected


def test_folder_called_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").mkdir()
    assert split_archive(f"{tmp_path}/x.zip") is None
    assert split_archive(f"{tmp_path}/x.zip/images") is None
    assert split_archive(f"{tmp_path}/x.zip/y.zip/images") == (tmp_path / "x.zip" / "y.zip", "images")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    (folder / "1.jpeg").write_bytes(b"one")
    (folder / "deeper" / "2.jpeg").write_bytes(b"two")
    return folder


def test_listing_ignores_folder_times_and_hidden_files(images: Path) -> None:
    before = listing(str(images))
    os.utime(images, (1, 1))
    os.utime(images / "deeper", (1, 1))
    (images / ".DS_Store").write_bytes(b"x")
    (images / ".cache").mkdir()
    (images / ".cache" / "3.jpeg").write_bytes(b"x")
    assert listing(str(images)) == before == listing(f"{images}/")


@pytest.mark.parametrize("change", ["content", "name", "more", "fewer", "moved", "time"])
def test_listing_changes_with_the_images(images: Path, change: str) -> None:
    before = listing(str(images))
    one = images / "1.jpeg"
    match change:
        case "content":
            one.write_bytes(b"longer")
        case "name":
            one.rename(images / "3.jpeg")
        case "more":
            (images / "3.jpeg").write_bytes(b"")
        case "fewer":
            one.unlink()
        case "moved":
            one.rename(images / "deeper" / "1.jpeg")
        case "time":
            os.utime(one, ns=(1, 1))
    assert listing(str(images)) != before


def test_links_are_followed_but_not_in_circles(images: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3.jpeg").write_bytes(b"three")
    (elsewhere / "back").symlink_to(images)
    (images / "there").symlink_to(elsewhere)
    (images / "self").symlink_to(images)
    (images / "broken.jpeg").symlink_to("nowhere")
    (images / "itself.jpeg").symlink_to("itself.jpeg")
    names = {name for name, _ in files_below(str(images))}
    assert names == {"1.jpeg", "deeper/2.jpeg", "there/3.jpeg", "broken.jpeg", "itself.jpeg"}
    assert listing(str(images)) == listing(str(images))


@pytest.mark.parametrize("path", ["missing", "file.txt", "missing.zip", "bad.zip"])
def test_listing_of_an_unreadable_folder_or_archive_is_an_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "bad.zip").write_text("x")
    with pytest.raises(RetinaflowError, match=path):
        listing(str(tmp_path / path))


def test_listing_of_an_archive_covers_only_the_folder(tmp_path: Path) -> None:
    members = {"train/1.jpeg": b"one", "train/2.jpeg": b"two", "test/3.jpeg": b"three"}
    path = make_zip(tmp_path / "a.zip", members)
    train, whole = listing(f"{path}/train"), listing(str(path))
    os.utime(path, (1, 1))
    assert (listing(f"{path}/train"), listing(str(path))) == (train, whole)
    make_zip(path, members | {"test/3.jpeg": b"THREE"}, zipfile.ZIP_STORED)
    assert listing(f"{path}/train") == train
    assert listing(str(path)) != whole


def test_unpack_leaves_the_files_below_the_folder_and_nothing_else(tmp_path: Path) -> None:
    members = {
        "set/images/1.jpeg": b"one",
        "set/images/deeper/ü '\n-2.jpeg": b"two",
        "set/images/.DS_Store": b"x",
        "set/images/._1.jpeg": b"x",
        "__MACOSX/set/images/1.jpeg": b"x",
        "set/imagesque/3.jpeg": b"x",
    }
    path = make_zip(tmp_path / "a.zip", members)
    target = tmp_path / "out" / "target"
    stale = target.with_name(".part-target")
    stale.mkdir(parents=True)
    (stale / "old.jpeg").write_bytes(b"x")
    assert unpack(f"{path}/set/images", target, 100) == 2
    assert tree(target) == {"1.jpeg": b"one", "deeper/ü '\n-2.jpeg": b"two"}
    assert os.listdir(target.parent) == ["target"]
    assert unpack(f"{path}/set/imagesque", target, 100) == 1
    assert tree(target) == {"3.jpeg": b"x"}


@given(st.dictionaries(st.text("ab", min_size=1, max_size=3), st.binary(max_size=50), min_size=1, max_size=5))
def test_unpacked_files_equal_the_packed_ones(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = make_zip(folder / "a.zip", {f"in/{name}": content for name, content in members.items()})
    total = sum(map(len, members.values()))
    assert unpack(f"{path}/in", folder / "out", total) == len(members)
    assert tree(folder / "out") == members
    if total:
        with pytest.raises(RetinaflowError, match=f"than the {total - 1} bytes"):
            unpack(f"{path}/in", folder / "out", total - 1)


def info(name: str, mode: int = 0, name_on_disk: str = "") -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    member.filename = name_on_disk or member.filename
    return member


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (info("/etc/x.jpeg"), "absolute"),
        (info("C:/x.jpeg"), "absolute"),
        (info("a/../../x.jpeg"), "leads out"),
        (info("../x.jpeg"), "leads out"),
        (info("..\\x.jpeg"), "backslash"),
        (info("a", name_on_disk="a.jpeg\0.txt"), "NUL"),
        (info("link.jpeg", stat.S_IFLNK | 0o777), "link"),
        (info("pipe.jpeg", stat.S_IFIFO | 0o666), "special"),
        (info("folder", stat.S_IFDIR | 0o777), "special"),
        (info("disk", stat.S_IFBLK | 0o666), "special"),
        (info("terminal", stat.S_IFCHR | 0o666), "special"),
        (info("a", name_on_disk="D:\\x.jpeg"), "absolute"),
        (info("a", name_on_disk="\\\\server\\x.jpeg"), "backslash"),
        (info("//server/x.jpeg"), "absolute"),
        (info("a/.."), "leads out"),
    ],
)
def test_dangerous_members_are_refused_before_anything_is_written(
    tmp_path: Path, member: zipfile.ZipInfo, reason: str
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.jpeg", b"x")
        archive.writestr(member, b"/etc/passwd")
    with pytest.raises(RetinaflowError, match=rf"a\.zip: member .*{reason}"):
        unpack(str(path), tmp_path / "out", 1000)
    assert os.listdir(tmp_path) == ["a.zip"]


def damage(path: Path, signature: bytes, offset: int, value: bytes, last: bool = False) -> None:
    content = bytearray(path.read_bytes())
    start = (content.rindex(signature) if last else content.index(signature)) + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x.csv": b"x"})
    damage(path, b"PK\1\2", 8, struct.pack("<H", 1))
    with pytest.raises(RetinaflowError, match=r"'x\.csv' is encrypted"):
        unpack(str(path), tmp_path / "out", 1000)
    with pytest.raises(RetinaflowError, match=r"'x\.csv' is encrypted"):
        read_member(str(path))


def test_damaged_content_leaves_nothing(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"0.jpeg": b"fine", "1.jpeg": b"content of one"}, zipfile.ZIP_STORED)
    damage(path, b"content of one", 0, b"C")
    with pytest.raises(RetinaflowError, match=r"a\.zip: member '1\.jpeg' cannot be read.*CRC"):
        unpack(str(path), tmp_path / "out", 1000)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_failed_unpacking_leaves_the_former_folder(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.jpeg": b"content of one"}, zipfile.ZIP_STORED)
    unpack(str(path), tmp_path / "out", 1000)
    damage(path, b"content of one", 0, b"C")
    with pytest.raises(RetinaflowError, match="CRC"):
        unpack(str(path), tmp_path / "out", 1000)
    assert tree(tmp_path / "out") == {"1.jpeg": b"content of one"}


@pytest.mark.parametrize("method", [9, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97])
def test_compression_that_is_unknown_or_without_bounds_is_refused(tmp_path: Path, method: int) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.csv": b"x"})
    damage(path, b"PK\3\4", 8, struct.pack("<H", method))
    damage(path, b"PK\1\2", 10, struct.pack("<H", method))
    for read in (lambda: unpack(str(path), tmp_path / "out", 1000), lambda: read_member(str(path))):
        with pytest.raises(RetinaflowError, match=rf"1\.csv' is compressed by method {method}"):
            read()


def test_large_archives_in_the_64_bit_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("1.jpeg", "w", force_zip64=True) as file:
        file.write(b"one")
    assert unpack(str(path), tmp_path / "out", 3) == 1
    assert tree(tmp_path / "out") == {"1.jpeg": b"one"}


@pytest.mark.parametrize("cut", [(0, 150), (150, None)], ids=["first", "last"])
def test_a_part_of_an_archive_on_several_disks_is_refused(tmp_path: Path, cut: tuple[int, int | None]) -> None:
    path = make_zip(tmp_path / "a.zip", {f"{n}.jpeg": bytes([n]) * 90 for n in range(9)}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[slice(*cut)])
    with pytest.raises(RetinaflowError, match=r"a\.zip: .*cannot be read.*copy it again"):
        unpack(str(path), tmp_path / "out", 1000)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_names_that_differ_in_case_are_two_files_or_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpeg": b"one", "A.jpeg": b"two"})
    try:
        unpack(str(path), tmp_path / "out", 1000)
    except RetinaflowError:  # On this file system, the names are equal.
        assert os.listdir(tmp_path) == ["a.zip"]
    else:
        assert tree(tmp_path / "out") == {"a.jpeg": b"one", "A.jpeg": b"two"}


@pytest.mark.parametrize("name", ["x" * 300 + ".jpeg", "/".join("d" * 3000)])
def test_names_that_the_disk_does_not_take_are_named(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.jpeg": b"x", name: b"x"})
    with pytest.raises(
        RetinaflowError, match=r"a\.zip: member '[xd].* (cannot be written .*too long|lies 2999 folders deep)"
    ) as caught:
        unpack(str(path), tmp_path / "out", 1000)
    assert len(str(caught.value)) < 1000
    assert os.listdir(tmp_path) == ["a.zip"]


def test_members_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """D. Fifield, "A better zip bomb", 2019: members that overlap multiply what an archive holds."""
    path = make_zip(tmp_path / "a.zip", {f"{n}.jpeg": bytes(1000) for n in range(50)})
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\1\2")
    place = first
    while (place := content.find(b"PK\1\2", place)) >= 0:
        content[place + 42 : place + 46] = bytes(4)  # all begin at the first one's place
        place += 4
    path.write_bytes(content)
    with pytest.raises(RetinaflowError, match=r"a\.zip: "):
        unpack(str(path), tmp_path / "out", 10_000)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_full_disk_is_an_error_and_leaves_no_files(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"1.jpeg": b"x", "2.jpeg": bytes(100_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(RetinaflowError, match=r"a\.zip: member '2\.jpeg' cannot be written .*free some space"):
            unpack(str(path), tmp_path / "out", 10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.zip"]


UNPACK = """
import sys
from pathlib import Path
from retinaflow.storage.archives import unpack
unpack(sys.argv[1], Path(sys.argv[2]), 10**9)
"""


@pytest.mark.parametrize("former", [False, True])
def test_a_killed_process_leaves_nothing_under_the_final_name(tmp_path: Path, former: bool) -> None:
    members = {f"{n // 100}/{n}.jpeg": bytes(20_000) for n in range(3000)}
    path, target, part = make_zip(tmp_path / "a.zip", members), tmp_path / "out", tmp_path / ".part-out"
    if former:
        unpack(str(make_zip(tmp_path / "b.zip", {"old.jpeg": b"x"})), target, 1000)
    process = subprocess.Popen([sys.executable, "-c", UNPACK, str(path), str(target)], cwd=ROOT / "workflow")
    while not part.exists() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(tree(part)) < len(members)
    assert not target.exists() if not former else tree(target) == {"old.jpeg": b"x"}
    assert unpack(str(path), target, 10**9) == len(members)
    assert len(tree(target)) == len(members)
    assert not {".part-out", ".former-out"} & set(os.listdir(tmp_path))


@given(cut=st.integers(min_value=0, max_value=400))
def test_truncated_archive_is_an_error(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = make_zip(folder / "a.zip", {"1.jpeg": os.urandom(300)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RetinaflowError, match=r"a\.zip: cannot be read as a \.zip"):
        unpack(str(path), folder / "out", 1000)


def packed(compression: int, force_zip64: bool) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("d/", b"")
        archive.writestr("d/1.jpeg", b"one" * 20)
        with archive.open("d/2.csv", "w", force_zip64=force_zip64) as member:
            member.write(b"two")
        archive.comment = b"comment"
    return file.getvalue()


ARCHIVES = [
    packed(compression, zip64) for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for zip64 in (0, 1)
]


@given(mutated(ARCHIVES))
def test_a_damaged_archive_is_an_error_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = folder / "a.zip"
    path.write_bytes(content)
    try:
        unpack(str(path), folder / "out" / "target", 1000)
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        assert not (folder / "out" / "target").exists()
    else:
        assert set(tree(folder / "out" / "target").values()) <= {b"one" * 20, b"two", b""}
    for read in (read_member, listing):
        with contextlib.suppress(RetinaflowError):
            read(str(path))
    assert set(os.listdir(folder)) <= {"a.zip", "out"}


def test_former_folder_is_whole_or_gone_after_an_interrupted_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, old, new = tmp_path / "out", {"1.jpeg": b"x", "2.jpeg": b"x"}, {"3.jpeg": b"x"}
    unpack(str(make_zip(tmp_path / "a.zip", old)), target, 1000)

    def cut_short(folder: Path, **_: object) -> None:
        next(folder.glob("*.jpeg")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_short)
        with contextlib.suppress(KeyboardInterrupt, StopIteration):
            unpack(str(make_zip(tmp_path / "b.zip", new)), target, 1000)
    assert not target.exists() or tree(target) in (old, new)
    unpack(str(tmp_path / "b.zip"), target, 1000)
    assert tree(target) == new
    assert set(os.listdir(tmp_path)) == {"a.zip", "b.zip", "out"}


def test_nothing_below_the_folder_is_an_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"train/1.jpeg": b"x", "tests/2.jpeg": b"x"})
    with pytest.raises(RetinaflowError, match="no file below 'test' in the archive"):
        unpack(f"{path}/test", tmp_path / "out", 1000)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.jpeg", "a.jpeg"), ("a.jpeg", "./a.jpeg"), ("a", "a/b"), ("a/b/c", "a/b")])
def test_two_members_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(RetinaflowError, match="two members would become 'a"):
        unpack(str(path), tmp_path / "out", 1000)
    assert not (tmp_path / "out").exists()


def test_size_is_counted_again_while_writing(tmp_path: Path) -> None:
    """A member with a wrong size never puts more than the limit on disk."""
    path = make_zip(tmp_path / "a.zip", {"1.jpeg": bytes(100_000)})
    damage(path, b"PK\1\2", 24, struct.pack("<I", 10))
    with pytest.raises(RetinaflowError, match=r"a\.zip: member '1\.jpeg'|more than the 50 bytes"):
        unpack(str(path), tmp_path / "out", 50)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_unpacking_a_plain_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RetinaflowError, match=r"expected the path of a \.zip"):
        unpack(str(tmp_path / "images"), tmp_path / "out", 1000)


def test_table_in_an_archive(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.csv.zip", {"in/x.csv": b"table", "in/readme.txt": b"x", "__MACOSX/in/._x.csv": b"x"})
    assert read_member(str(path)) == b"table"
    assert read_member(f"{path}/in/x.csv") == b"table"
    assert read_member(f"{path}/in/readme.txt") == b"x"


def test_missing_or_ambiguous_table_is_an_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "two.zip", {"a/x.csv": b"x", "y.csv": b"y"})
    with pytest.raises(RetinaflowError, match=r"found a/x\.csv, y\.csv\. Name .*two\.zip/a/x\.csv"):
        read_member(str(path))
    with pytest.raises(RetinaflowError, match=r"found a/x\.csv, y\.csv"):
        read_member(f"{path}/x.csv")
    with pytest.raises(RetinaflowError, match=r"found none\. Name .*none\.zip/name\.csv"):
        read_member(str(make_zip(tmp_path / "none.zip", {"x.txt": b"x"})))


@pytest.mark.parametrize("depth", [101, 1500, 20_000])
def test_deep_archive_is_an_error(tmp_path, depth):
    archive = make_zip(tmp_path / "deep.zip", {"a/" * depth + "1_left.jpeg": b"image"})
    with pytest.raises(RetinaflowError, match=rf"deep.zip: member .* lies {depth} folders deep, more than 100"):
        unpack(str(archive), tmp_path / "unpacked", 10**6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep.zip"]


def test_deep_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(150):
        Path("a").mkdir()
        os.chdir("a")
    with pytest.raises(RetinaflowError, match="folders are nested deeper than 100 levels"):
        list(files_below(str(tmp_path)))
