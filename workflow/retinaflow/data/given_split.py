"""A split that label tables or lists of names prescribe, as benchmarks publish it."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from retinaflow.data.inventory import EXAMPLES
from retinaflow.data.labels import LabelRow, image_name
from retinaflow.data.matching import composed
from retinaflow.errors import RetinaflowError

SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def given_sides(tables: Mapping[str, Sequence[LabelRow]]) -> dict[str, str]:
    """Return the side of each image: ``train``, ``validation`` or ``test``.

    Args:
        tables: Rows of each training set, by the name that its images have before their own (``""`` for none). The side
            of a row is the text of its grade.

    Returns:
        The sides by the name of the image, and by its folder and name.

    Raises:
        RetinaflowError: A side is unknown, or an image has two.
    """
    sides: dict[str, str] = {}
    for data_set, rows in tables.items():
        folders: dict[str, set[str]] = {}
        for row in rows:
            folders.setdefault(row.image, set()).add(row.folder)
        for row in rows:
            side = SIDES.get(row.grade_text.casefold())
            if side is None:
                raise RetinaflowError(
                    f"split.column: row {row.row}{f' of {row.table}' if row.table else ''} has {row.grade_text[:80]!r} "
                    f"for the image {row.image!r}, expected train, validation or test. Correct the row."
                )
            names = {row.relative_path} | ({row.image} if len(folders[row.image]) == 1 else set())
            for name in names:
                key = f"{data_set}/{composed(name)}" if data_set else composed(name)
                if sides.setdefault(key, side) != side:
                    raise RetinaflowError(
                        f"split.column: the image {row.image!r} is in {sides[key]} and {side}, expected one of them. "
                        f"Correct row {row.row}."
                    )
    return sides


def held_out_sides(images: Iterable[str], validation_sets: Collection[str]) -> dict[str, str]:
    """Return the side of each image of joined training sets, some of which are validation sets.

    Args:
        images: Names of the images, each with that of its data set before a slash.
        validation_sets: Names of the validation sets.
    """
    return {
        composed(image): "validation" if image.partition("/")[0] in validation_sets else "train" for image in images
    }


def listed_sides(lists: Mapping[str, Sequence[str]], images: Iterable[str]) -> dict[str, str]:
    """Return the side of each image: ``train``, ``validation`` or ``test``.

    Args:
        lists: Names of the images of each side, with or without extension and folders. Without the side ``train``, all
            images that have no other side are in it.
        images: Names of all images of the training sets. That of a joined set is before a slash.

    Returns:
        The sides by the name of the image. An image that is in no list has none.

    Raises:
        RetinaflowError: A name is that of no image, or of several. An image is in two lists.
    """
    names = [composed(image) for image in images]
    exact = set(names)
    ends: dict[str, list[str]] = {}
    for name in names:
        steps = name.split("/")
        for start in range(1, len(steps)):
            ends.setdefault("/".join(steps[start:]), []).append(name)
    sides: dict[str, str] = {}
    unknown = []
    for side, listed in lists.items():
        for text in listed:
            found = _found(text, exact, ends)
            if not found:
                unknown.append(text)
            elif len(found) > 1:
                raise RetinaflowError(
                    f"split.lists.{side}: {text!r} is the name of {len(found)} images, such as {found[0]!r} and "
                    f"{found[1]!r}. Write the data set or folder before the name."
                )
            elif sides.setdefault(found[0], side) != side:
                raise RetinaflowError(
                    f"split.lists: the image {found[0]!r} is in {sides[found[0]]} and {side}, expected one of them. "
                    "Correct the lists."
                )
    if unknown:
        more = f" and {len(unknown) - EXAMPLES} more" if len(unknown) > EXAMPLES else ""
        raise RetinaflowError(
            f"split.lists: {len(unknown)} names are those of no image of the training sets: "
            f"{', '.join(map(repr, unknown[:EXAMPLES]))}{more}. Correct or remove them."
        )
    if "train" not in lists:
        sides = dict.fromkeys(names, "train") | sides
    return sides


def _found(text: str, exact: Collection[str], ends: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Images with a name in a list. It may have folders that the images do not have."""
    steps = composed(text).split("/")
    steps[-1] = image_name(steps[-1])
    for start in range(len(steps)):
        name = "/".join(steps[start:])
        if name in exact:
            return [name]
        if name in ends:
            return ends[name]
    return []
