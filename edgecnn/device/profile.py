"""A device as data: one TOML file that says how to reach it and what a measurement there needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import Field, model_validator

from edgecnn.data.settings import Settings, parse_settings, read_toml
from edgecnn.data.shipped import shipped
from edgecnn.errors import unknown

Transport = Literal["local", "ssh", "adb"]
Cpu = Literal["x86", "x86-amx", "armv8-a53", "armv8", "armv8-dot", "armv8-i8mm"]
Engine = Literal["litert", "ort"]

PLAIN = r"^[^-\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"
"""What may be handed to a program as a name: nothing it could take for an option, no control characters."""

Name = Annotated[str, Field(pattern=PLAIN)]
Positive = Annotated[int, Field(ge=1)]


class DeviceProfile(Settings):
    """What a device file says.

    Args:
        title: one line for lists.
        transport: `local` is this machine.
        host: ssh only: a host of the user's ssh configuration, or user@address.
        serial: adb only: as `adb devices` prints it; with one device attached it may be left out.
        ssh_config: ssh only: another configuration file (`ssh -F`); relative to the device file.
        python: the interpreter there, with numpy and an engine.
        env: environment variables of the agent, such as PYTHONPATH.
        work_folder: where a folder of ours is made there, and removed at the end.
        engines: which engines the device is meant to have; `edgecnn devices check` misses no others.
        cpu: what lowerings are chosen for; asked of the device if left out.
        cores: the cores a measurement is bound to, such as the fast cluster; all if left out.
        threads: thread counts worth measuring.
        governor: what the clocks should be governed by while measuring.
        max_temp_c: hotter than this, a measurement waits.
        power_sensor: the name of the one that energy is taken from (`VDD_IN`, `package-0`, `battery`); the most precise
            one found if left out.
        benchmark_model: for devices without Python: LiteRT's binary of that name for that device, a file on this
            machine, relative to the device file; only .tflite files can be measured with it.
        emulated: its times say nothing about hardware, and are never reported as latencies.
    """

    title: str = ""
    transport: Transport
    host: Name | None = None
    serial: Name | None = None
    ssh_config: Name | None = None
    python: Name = "python3"
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(default_factory=dict)
    work_folder: Annotated[str, Field(pattern=r"^/[^\x00-\x1f\x7f]*$")] = "/tmp"
    engines: tuple[Engine, ...] = get_args(Engine)
    cpu: Cpu | None = None
    cores: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    threads: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1,)
    governor: Name | None = None
    max_temp_c: Annotated[float, Field(gt=0)] | None = None
    power_sensor: Name | None = None
    benchmark_model: Name | None = None
    emulated: bool = False

    @model_validator(mode="after")
    def _addressed(self) -> DeviceProfile:
        if (self.host is not None) != (self.transport == "ssh"):
            raise ValueError('`host` goes with transport = "ssh", and only with it')
        for key in ("serial", "ssh_config"):
            if getattr(self, key) is not None and self.transport != {"serial": "adb", "ssh_config": "ssh"}[key]:
                raise ValueError(f'`{key}` does not go with transport = "{self.transport}"')
        if self.cores is not None and (not self.cores or max(self.threads) > len(self.cores)):
            raise ValueError(f"{max(self.threads)} threads on {len(self.cores)} cores")
        return self

    @property
    def address(self) -> str:
        """Where it is, in the transport's own words."""
        return {"local": "this machine", "ssh": self.host or "", "adb": self.serial or "the attached one"}[
            self.transport
        ]


def load_device(name_or_file: str) -> tuple[str, DeviceProfile]:
    """The name and profile of a device: a path that ends in .toml, or a name in one of `device_folders`.

    Raises:
        UsageError: no such device (with the nearest names), or mistakes in its file, all of them at once.
        InputError: the file cannot be read or is not TOML.
    """
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
    else:
        known = device_files()
        if name_or_file not in known:
            folders = ", ".join(str(folder) for folder in device_folders())
            raise unknown("device", name_or_file, known, where=f"the .toml files of {folders}")
        path = known[name_or_file]
    profile = parse_settings(DeviceProfile, read_toml(path), where=str(path))
    beside = {
        key: str((path.parent / Path(file).expanduser()).resolve())
        for key in ("ssh_config", "benchmark_model")
        if (file := getattr(profile, key)) is not None
    }
    profile = profile.model_copy(update=beside)
    return path.stem, profile


def device_folders() -> list[Path]:
    """Where device files are looked for, first come first served: the current project, the user's own, the shipped."""
    return [
        Path("recipes/devices"),
        platformdirs.user_config_path("edgecnn") / "devices",
        shipped("recipes") / "devices",
    ]


def device_files() -> dict[str, Path]:
    """The device files there are, by name."""
    files: dict[str, Path] = {}
    for folder in device_folders():
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.stem, path)
    return files


def rows() -> list[dict[str, Any]]:
    """The devices there are, as plain rows: name, transport, address, title, file."""
    found = []
    for name, path in sorted(device_files().items()):
        _, profile = load_device(str(path))
        found.append(
            {
                "name": name,
                "transport": profile.transport,
                "address": profile.address,
                "emulated": profile.emulated,
                "title": profile.title,
                "file": str(path),
            }
        )
    return found
