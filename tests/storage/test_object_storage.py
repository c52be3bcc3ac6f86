"""Objects in storage, in a bucket that moto keeps in this process."""

from importlib.util import find_spec

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.storage import object_storage


@pytest.fixture
def client(monkeypatch):
    """A client that sees one empty bucket, `eyes`."""
    if find_spec("moto") is None:
        pytest.skip("moto is not installed (envs/requirements-s3-dev.txt)")
    import moto

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anybody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client = object_storage.client()
        client.create_bucket(Bucket="eyes")
        yield client


def put(client, **contents):
    for key, content in contents.items():
        client.put_object(Bucket="eyes", Key=key, Body=content)


def files_in(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.s3
def test_folder_has_all_visible_objects_below_the_prefix(client, tmp_path):
    wanted = {"1_left.jpeg": b"a", "blank in/1_right.jpeg": b"b", "empty.jpeg": b"", "ünïcode +%20&.jpeg": b"c"}
    put(client, **{f"train/{name}": content for name, content in wanted.items()})
    put(
        client,
        **{"train/": b"", "train/.hidden": b"x", "train/.h/x.jpeg": b"x", "train/sub/": b"", "trainer/y.jpeg": b"y"},
    )
    assert object_storage.fetch_folder(client, "s3://eyes/train/", target=tmp_path / "there", max_bytes=3) == 4
    assert files_in(tmp_path / "there") == wanted


@pytest.mark.s3
def test_only_changed_objects_are_fetched_again(client, tmp_path):
    put(client, **{"a/1": b"1", "a/2": b"2", "a/3": b"3"})
    before = object_storage.state(object_storage.find_below(client, "s3://eyes/a"))
    object_storage.fetch_folder(client, "s3://eyes/a", target=tmp_path / "there", max_bytes=100)
    put(client, **{"a/2": b"two", "a/4": b"4"})
    client.delete_object(Bucket="eyes", Key="a/3")
    assert object_storage.state(object_storage.find_below(client, "s3://eyes/a")) != before
    assert object_storage.fetch_folder(client, "s3://eyes/a", target=tmp_path / "there", max_bytes=100) == 2
    assert files_in(tmp_path / "there") == {"1": b"1", "2": b"two", "4": b"4"}
    assert len(list((tmp_path / ".cache/there").iterdir())) == 3
    # Written again with the same content: the same state.
    put(client, **{"a/1": b"1"})
    assert object_storage.fetch_folder(client, "s3://eyes/a", target=tmp_path / "there", max_bytes=100) == 0


@pytest.mark.s3
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//x", "./x", "a\\x", "x" * 300, ".."])
def test_names_that_leave_the_folder_or_are_invalid_are_refused(client, tmp_path, name):
    client.put_object(Bucket="eyes", Key=f"train/{name}", Body=b"x")
    with pytest.raises(RetinaflowError, match=r"s3://eyes/train: the object .* which a file cannot have"):
        object_storage.fetch_folder(client, "s3://eyes/train", target=tmp_path / "below/there", max_bytes=100)
    assert not list(tmp_path.iterdir())


@pytest.mark.s3
def test_an_object_that_is_a_folder_too_is_refused(client, tmp_path):
    put(client, **{"a/x.jpeg": b"1", "a/x.jpeg/y": b"2"})
    with pytest.raises(RetinaflowError, match=r"'x\.jpeg' is an object and a folder of others"):
        object_storage.fetch_folder(client, "s3://eyes/a", target=tmp_path / "there", max_bytes=100)


@pytest.mark.s3
def test_more_than_allowed_is_not_fetched(client, tmp_path):
    put(client, **{"a/1": b"12345"})
    with pytest.raises(RetinaflowError, match=r"5 bytes are more than the 4 allowed.*data\.unpack_limit"):
        object_storage.fetch_folder(client, "s3://eyes/a", target=tmp_path / "there", max_bytes=4)


@pytest.mark.s3
def test_an_object_that_changes_while_it_is_fetched_is_refused(client, tmp_path, monkeypatch):
    put(client, **{"a/1": b"before"})
    found = object_storage.find(client, "s3://eyes/a/1")
    put(client, **{"a/1": b"after"})
    monkeypatch.setattr(object_storage, "find", lambda *_: found)
    with pytest.raises(RetinaflowError, match="s3://eyes/a/1: changed while it was fetched"):
        object_storage.fetch_file(client, "s3://eyes/a/1", tmp_path / "there")
    assert not list(tmp_path.iterdir())


@pytest.mark.s3
def test_a_table_is_fetched_again_when_it_changed_only(client, tmp_path):
    put(client, **{"labels.csv": b"image,level"})
    table = tmp_path / "eyes/labels.csv"
    object_storage.fetch_table(client, "s3://eyes/labels.csv", table)
    first = table.stat().st_ino
    object_storage.fetch_table(client, "s3://eyes/labels.csv", table)
    assert table.stat().st_ino == first
    put(client, **{"labels.csv": b"image,grade"})
    object_storage.fetch_table(client, "s3://eyes/labels.csv", table)
    assert table.read_bytes() == b"image,grade"


@pytest.mark.s3
def test_a_table_that_is_none_is_not_fetched(client, tmp_path, monkeypatch):
    monkeypatch.setattr(object_storage, "TABLE_BYTES", 3)
    put(client, **{"labels.zip": b"1234"})
    with pytest.raises(RetinaflowError, match="has 4 bytes, expected at most"):
        object_storage.fetch_table(client, "s3://eyes/labels.zip", tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/a.zip", ("s3://b/a.zip", "")),
        ("s3://b/x/A.ZIP/in/side/", ("s3://b/x/A.ZIP", "in/side")),
        ("s3://b.zip/x", None),
        ("s3://b/zip/x.zipped", None),
    ],
)
def test_address_is_split_at_the_archive(url, expected):
    assert object_storage.split_archive_url(url) == expected
