"""Files that survive a crash: atomic folders and JSON, and checksums checked on reading."""

import ctypes
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_mythos.errors import CheckpointError, DamagedError


MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
CHUNK = 1 << 20

# renameat2(2): resolve both paths from the working directory, and swap the two names at once.
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder that appears under its name whole or not at all.

    Write into the yielded path, a hidden sibling of the target. On leaving, every file is forced
    to disk and the sibling takes the target's name; what stood there before is deleted only then.
    Linux swaps the two names in one system call. Elsewhere there is an instant between two renames
    in which the old folder has a hidden name; if the second fails, the first is undone.

    Raises:
        CheckpointError: If the target exists and is not a folder.
    """
    target = Path(path).absolute()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; a checkpoint is a folder, give another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}{TEMPORARY}", dir=target.parent))
    fresh.chmod(0o777 & ~current_umask())  # mkdtemp makes private folders; ours is an ordinary one
    try:
        yield fresh
        sync_tree(fresh)
        put_in_place(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_path(target.parent)


def put_in_place(fresh: Path, target: Path) -> None:
    """Give `fresh` the name `target`, and delete what had it."""
    if not target.exists():
        fresh.rename(target)
        return
    if exchange(fresh, target):
        shutil.rmtree(fresh)  # after the swap this is the old folder
        return
    aside = fresh.with_name(f"{fresh.name}-old")
    target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one system call; False where the system or its file system cannot."""
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(call(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0)


def remove_temporaries(folder: str | Path) -> list[Path]:
    """Delete what writers killed in the middle left in `folder`; for its one writer to call."""
    left = sorted(Path(folder).glob(f".*{TEMPORARY}*"))
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return left


def current_umask() -> int:
    """The process's file mode mask, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_path(path: Path) -> None:
    """Force one file or folder to disk; systems that cannot open folders are let be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Force every file below `folder`, then the folders themselves, to disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_path(path)
    sync_path(folder)


# -- JSON and text -------------------------------------------------------------------------------


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file in one step, so that a reader sees the old or the new, whole."""
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}{TEMPORARY}", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh = Path(name)
        fresh.chmod(0o666 & ~current_umask())
        fresh.replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write plain values as indented JSON, in one step.

    Raises:
        CheckpointError: On a NaN or an infinity, which JSON cannot say.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(
            f"cannot write {path} as JSON ({error}); store None instead"
        ) from None
    write_text(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        DamagedError: If the file is missing, or is no JSON (truncated, damaged).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedError(f"{path} does not exist; is this the folder of a checkpoint?") from None
    except ValueError as error:
        raise DamagedError(
            f"{path} is damaged or truncated ({error}); use another copy or an earlier checkpoint"
        ) from None


# -- checksums -----------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def manifest_entry(path: Path) -> dict[str, Any]:
    """What a manifest says of one file: its size and checksum."""
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def write_manifest(folder: str | Path, known: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Seal a finished folder: note the size and checksum of every file in it.

    Args:
        folder: The folder.
        known: Entries of files whose writers have read them already.
    """
    root, known = Path(folder), known or {}
    names = {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    files = {name: known.get(name) or manifest_entry(path) for name, path in names.items()}
    write_json(root / MANIFEST, {"files": files})


def check_file(folder: str | Path, name: str, *, sealed: bool = False) -> Path:
    """The path of one file of a checkpoint, once it is known to be as it was written.

    A folder without a manifest is accepted unless `sealed` is asked for: weights may have been
    put together by hand, and safetensors then still refuses a truncated file by itself.

    Raises:
        DamagedError: If the file is missing, truncated or altered, or an asked-for manifest is
            missing or silent about it.
    """
    root, path = Path(folder), Path(folder) / name
    if not path.is_file():
        raise DamagedError(f"{path} does not exist; a checkpoint folder must hold {name}")
    if not (root / MANIFEST).is_file() and not sealed:
        return path
    manifest = read_json(root / MANIFEST)
    entry = manifest.get("files", {}).get(name) if isinstance(manifest, dict) else None
    if entry is None:
        if sealed:
            raise DamagedError(f"{root / MANIFEST} does not list {name}; it cannot be trusted")
        return path
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise DamagedError(
            f"{path} has {size} bytes, {entry['bytes']} were written: it is truncated or damaged; "
            "use another copy or an earlier checkpoint"
        )
    if digest(path) != entry["sha256"]:
        raise DamagedError(
            f"{path} is not what was written (its SHA-256 differs): use another copy or an earlier "
            f"checkpoint, or, if you edited it on purpose, delete {root / MANIFEST}"
        )
    return path


def check_folder(folder: str | Path, part: int = 0, parts: int = 1) -> None:
    """Check every file that a sealed folder's manifest lists.

    Args:
        folder: The folder.
        part: Which share of the files to check, where several processes divide the work.
        parts: Into how many shares it is divided.

    Raises:
        DamagedError: On the first file that is missing, truncated or altered.
    """
    manifest = read_json(Path(folder) / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{Path(folder) / MANIFEST} is no manifest; use another checkpoint")
    for name in sorted(manifest["files"])[part::parts]:
        check_file(folder, name, sealed=True)
