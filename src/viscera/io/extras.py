"""What the extra ``train`` brings (torch and more), and one refusal of all that needs it where it is not installed.

Segmenting with the bundled weights or exported slices, evaluating, viewing and reporting need none of it.
"""

from importlib.util import find_spec

from viscera.errors import SettingError

TRAIN_REMEDY = "Install it: pip install 'viscera[train]'."


def is_installed(package: str) -> bool:
    """Tell whether a package is there, without importing it."""
    return find_spec(package) is not None


def require_train(what: str, *packages: str) -> None:
    """Refuse what needs packages of the extra ``train`` that are not installed; call it before any work begins.

    Args:
        what: The subject of the message, such as "viscera train" or "a GPU".
        packages: As they are imported.

    Raises:
        SettingError: One or more are not installed.
    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        names = " and ".join(missing).replace("_", "-")
        raise SettingError(
            f"{what} needs {names}, which {'are' if len(missing) > 1 else 'is'} not installed", TRAIN_REMEDY
        )
