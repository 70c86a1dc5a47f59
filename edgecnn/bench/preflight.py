"""What of a device's state would spoil a measurement, looked at before it begins; waits for a hot device to cool."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from edgecnn.bench.worker import Agent
from edgecnn.device.android import complete
from edgecnn.device.place import Remote
from edgecnn.device.profile import DeviceProfile
from edgecnn.device.snapshot import snapshot

COOL_DOWN_S = 300.0
POLL_S = 5.0
BUSY_SHARE = 0.25
LOW_BATTERY_PERCENT = 20


def preflight(
    device: Remote,
    *,
    progress: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """What there is to say about the device's state, after a wait for it to cool below its profile's `max_temp_c`.

    Raises:
        DeviceFailed: it cannot be reached.
    """
    profile = device.profile
    with ExitStack() as stack:
        look = _looker(device, stack)
        answer = look()
        waited = clock()
        while (hot := hottest(answer["state"])) and profile.max_temp_c is not None and hot[1] > profile.max_temp_c:
            if clock() - waited > COOL_DOWN_S:
                return [*remarks(answer, profile), f"still {hot[1]:.0f} degrees C after {COOL_DOWN_S:.0f} s of waiting"]
            progress(f"{device.name}: {hot[0]} at {hot[1]:.0f} degrees C, waiting for {profile.max_temp_c:.0f}")
            sleep(POLL_S)
            answer = look()
    return remarks(answer, profile)


def look_at(device: Remote) -> dict[str, Any]:
    """The device's machine, engines and state: by its agent, or by its shell where it has no Python.

    Raises:
        DeviceFailed: it cannot be reached.
    """
    with ExitStack() as stack:
        return _looker(device, stack)()


def _looker(device: Remote, stack: ExitStack) -> Callable[[], dict[str, Any]]:
    if device.profile.benchmark_model is not None:
        ask: Callable[[], dict[str, Any]] = partial(snapshot, device.transport)
    else:
        ask = partial(stack.enter_context(Agent(device, subject=device.name)).ask, "machine")
    if device.profile.transport == "adb":
        return lambda: complete(ask(), device.transport)
    return ask


def hottest(state: dict[str, Any]) -> tuple[str, float] | None:
    """The hottest zone and its temperature in degrees C, or None where none is told."""
    temps: dict[str, float] = state.get("temps_c", {})
    return max(temps.items(), key=lambda item: item[1]) if temps else None


def remarks(answer: dict[str, Any], profile: DeviceProfile) -> list[str]:
    """What in the answer to `machine` makes a measurement less sure."""
    machine, state = answer["machine"], answer["state"]
    found = []
    governors = machine.get("governors") or []
    if profile.governor is not None and governors not in ([], [profile.governor]):
        found.append(
            f"the clock is governed by {', '.join(governors)}, not {profile.governor}: as root there, "
            f"`echo {profile.governor} | tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`"
        )
    if state.get("throttled"):
        found.append("before the first run the device said: " + ", ".join(state["throttled"]))
    load, cores = machine.get("load"), machine.get("cores") or 1
    if load is not None and load > BUSY_SHARE * cores:
        found.append(f"other programs were running: a load of {load:.1f} on {cores} cores")
    battery = machine.get("battery")
    if battery and (battery.get("percent") or 100) < LOW_BATTERY_PERCENT:
        found.append(f"the battery is at {battery['percent']} %; phones slow down then")
    return found
