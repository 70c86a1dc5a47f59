"""Device files: the shipped ones, names, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.data.shipped import shipped
from edgecnn.device.profile import device_files, load_device
from edgecnn.device.transport import connect, python_of
from edgecnn.errors import InputError, UsageError

SHIPPED = sorted((shipped("recipes") / "devices").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_load_and_begin_with_the_command_that_uses_them(path: Path) -> None:
    name, profile = load_device(str(path))
    assert profile.title
    assert f"edgecnn devices check {name}" in path.read_text().splitlines()[0]
    assert connect(name, profile).argv(["true"])[-1].endswith("true")


def test_a_name_is_looked_for_here_before_among_the_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_device("pi5")[1].host == "pi5"
    mine = tmp_path / "recipes/devices/pi5.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('transport = "ssh"\nhost = "me@kitchen"\nssh_config = "../cfg"\n')
    assert device_files()["pi5"] == Path("recipes/devices/pi5.toml")
    assert load_device("pi5")[1].host == "me@kitchen"
    assert load_device("pi5")[1].ssh_config == str(tmp_path / "recipes/cfg")
    with pytest.raises(UsageError, match="did you mean `pi5`"):
        load_device("pi55")


def test_this_machine_is_measured_by_this_interpreter() -> None:
    import sys

    assert python_of(load_device("this-machine")[1]) == sys.executable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('transport = "ssh"', "`host` goes with"),
        ('transport = "local"\nhost = "a"', "`host` goes with"),
        ('transport = "local"\nserial = "a"', "`serial` does not go"),
        ('transport = "adb"\nssh_config = "a"', "`ssh_config` does not go"),
        ('transport = "ssh"\nhost = "-oProxyCommand=touch x"', "host: String should match"),
        ('transport = "ssh"\nhost = "a b"\nwork_folder = "tmp"', "work_folder: String should match"),
        ('transport = "ssh"\nhost = "a"\npython = "-c"', "python: String should match"),
        ('transport = "adb"\nserial = "a\\nb"', "serial: String should match"),
        ('transport = "local"\ncores = []', "1 threads on 0 cores"),
        ('transport = "local"\ncores = [0]\nthreads = [2]', "2 threads on 1 cores"),
        ('transport = "local"\nenv = { "A=B" = "c" }', "env.A=B"),
        ('transport = "local"\ngovenor = "performance"', "did you mean `governor`?"),
        ('transport = "usb"', "transport: Input should be 'local', 'ssh' or 'adb'"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "d.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_device(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text("transport = ")
    with pytest.raises(InputError, match="is not TOML"):
        load_device(str(tmp_path / "d.toml"))
    with pytest.raises(InputError, match="cannot read"):
        load_device(str(tmp_path / "none.toml"))
