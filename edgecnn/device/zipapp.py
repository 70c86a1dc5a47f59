"""Packs the device side into one file that a device's Python runs: `python runtime.pyz JOB.json`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import edgecnn.runtime

MAIN = b"import sys\nfrom runtime.worker import main\nsys.exit(main())\n"
EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zipapp(path: Path) -> None:
    """Writes `edgecnn.runtime` as a zipapp to `path`; the same sources give the same bytes."""
    folder = Path(edgecnn.runtime.__file__).parent
    files = {f"runtime/{source.name}": source.read_bytes() for source in sorted(folder.glob("*.py"))}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"__main__.py": MAIN, **files}.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
