"""A lock is free exactly when its worker is dead."""

from __future__ import annotations

import subprocess
import sys

from service.liveness import liveness_for
from service.settings import Settings
from tests.service.harness import Service, wait_until

HOLDER = """
import sys, time
from service.liveness import liveness_for
from service.settings import Settings
liveness = liveness_for(Settings(), sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def dead(settings: Settings, name: str) -> bool:
    looker = liveness_for(settings, "looker")
    try:
        with looker.if_dead(name) as found:
            return found
    finally:
        looker.release()


def test_the_living_are_not_dead_and_the_killed_are(service: Service) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, "a"], env=service.environment(), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert not dead(service.settings, "a")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    wait_until(lambda: dead(service.settings, "a"), 5, "the lock to be free")
    assert dead(service.settings, "never lived")


def test_only_one_is_told_of_a_death_at_a_time(service: Service) -> None:
    one = liveness_for(service.settings, "one")
    two = liveness_for(service.settings, "two")
    with one.if_dead("ghost") as first, two.if_dead("ghost") as second:
        assert first
        assert not second
    with two.if_dead("ghost") as second:
        assert second
    one.release()
    with two.if_dead("one") as released:
        assert released
    assert two.lost_for() == 0.0
    two.release()
