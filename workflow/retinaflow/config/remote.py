"""Object storage: replace addresses by the paths that their content is fetched to, and check that it is there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinaflow.config.lookups import data_sets, feature_networks
from retinaflow.config.messages import raise_problems
from retinaflow.config.places import image_keys, label_keys
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import USES, DataSetSettings, DataSettings, set_name
from retinaflow.settings.root import Configuration
from retinaflow.storage import object_storage


@dataclass(frozen=True)
class Remote:
    """A folder or file in object storage that a key names, and the path that it is fetched to."""

    key: str
    url: str
    path: str
    kind: str  # folder, archive, table or weights


def fetched(config: Configuration) -> tuple[Configuration, list[Remote]]:
    """``config`` with a path instead of each address in object storage, and the list of these.

    ``config`` has passed ``places.check_files``. Label tables are read before anything runs, and so do not lie in the
    results folder.
    """
    remote: list[Remote] = []
    sources = {name: _local_source(name, source, config.results, remote) for name, source in data_sets(config).items()}
    local = {}
    for name, settings in feature_networks(config).items():
        weights = _local_weights(name, settings.weights, config.results, remote)
        local[name] = settings.model_copy(update={"weights": weights})
    models, frozen = ({name: local[name] for name in networks} for networks in (config.models, config.frozen))
    data = config.data.model_copy(update=_by_use(config.data, sources))
    return config.model_copy(update={"data": data, "models": models, "frozen": frozen}), remote


def _by_use(data: DataSettings, sources: Mapping[str, DataSetSettings]) -> dict[str, Any]:
    """``sources``, by the names of ``lookups.data_sets``, in the form that ``data`` has for each use."""
    return {
        use: (
            {name: sources[set_name(use, name)] for name in getattr(data, use)}
            if isinstance(getattr(data, use), Mapping)
            else sources.get(use)
        )
        for use in USES
    }


def _local_source(data_set: str, source: DataSetSettings, results: str, remote: list[Remote]) -> DataSetSettings:
    images = list(source.images)
    for number, (key, url) in enumerate(image_keys(data_set, source)):
        if object_storage.is_remote(url):
            stem = Path(results, "downloaded", f"{data_set}-{number}").as_posix()
            archive = object_storage.split_archive_url(url)
            if archive:
                remote.append(Remote(key, archive[0], f"{stem}.zip", "archive"))
            else:
                remote.append(Remote(key, url, stem, "folder"))
            images[number] = f"{stem}.zip/{archive[1]}".rstrip("/") if archive else stem
    tables = []
    for key, labels in label_keys(data_set, source):
        if object_storage.is_remote(labels):
            url = (object_storage.split_archive_url(labels) or [labels])[0]
            remote.append(Remote(key, url, _table_path(url), "table"))
            labels = _table_path(labels)
        tables.append(labels)
    several = isinstance(source.labels, list)
    return source.model_copy(update={"images": images, "labels": tables if several else (*tables, source.labels)[0]})


def _local_weights(name: str, url: str, results: str, remote: list[Remote]) -> str:
    if not object_storage.is_remote(url):
        return url
    # Keras tells its two formats apart by the name.
    suffix = ".weights.h5" if url.endswith(".weights.h5") else ".h5"
    path = Path(results, "downloaded", name + suffix).as_posix()
    remote.append(Remote(f"weights of {name}", url, path, "weights"))
    return path


def _table_path(url: str) -> str:
    return Path(".snakemake/labels", url.removeprefix(object_storage.SCHEME)).as_posix()


def check_remote(client: Any, remote: Iterable[Remote]) -> None:
    """Check that every folder and file is in its storage and may be read. Label tables are fetched if they changed.

    Raises:
        RetinaflowError: one error that lists each key whose folder or file cannot be read.
    """
    problems = []
    for one in remote:
        try:
            if one.kind == "table":
                object_storage.fetch_table(client, one.url, Path(one.path))
            elif one.kind == "folder":
                object_storage.check_folder(client, one.url)
            else:
                object_storage.find(client, one.url)
        except RetinaflowError as error:
            problems.append(f"{one.key}: {error}")
    raise_problems(problems)
