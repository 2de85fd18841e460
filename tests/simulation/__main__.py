"""Run schedules from the command line: ``python -m tests.simulation --seeds 0..2000 --jobs 2``; ``--seed 7 --trace`` tells one
of them, ``--script adopt-same`` plays what is written down about a rule."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.batches import Job, run_all
from tests.simulation.rules import all_rules, without
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.scene import violations_of
from tests.simulation.world import LIVENESS


def main() -> int:
    rules = all_rules()
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="one schedule")
    parser.add_argument("--seeds", default="0..200", metavar="A..B", help="B not included")
    parser.add_argument("--without", action="append", default=[], choices=rules, metavar="RULE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--first", action="store_true", help="stop at the first schedule that breaks")
    parser.add_argument("--safety", action="store_true", help="do not count that something was never answered")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    parser.add_argument("--script", choices=[scenario.rules[0] for scenario in SCENARIOS], help="play a script instead")
    parser.add_argument("--rules", action="store_true", help="list the rules")
    wish = parser.parse_args()
    if wish.rules:
        for rule in rules.values():
            print(f"{rule.name:16} {rule.sentence}")
        return 0
    if wish.script is not None:
        (script,) = (scenario.script for scenario in SCENARIOS if scenario.rules[0] == wish.script)
        with without(*wish.without):
            violations = violations_of(script, is_traced=wish.trace)
        print(*violations or ["nothing broke"], sep="\n")
        return 1 if violations else 0
    first, last = map(int, wish.seeds.split(".."))
    seeds = range(first, last) if wish.seed is None else [wish.seed]
    jobs = (Job(seed, tuple(wish.without), wish.trace) for seed in seeds)
    began_s, ran, broken, answered = time.monotonic(), 0, 0, 0
    for verdict in run_all(jobs, wish.jobs):
        ran, answered = ran + 1, answered + verdict.answered
        violations = [one for one in verdict.violations if not wish.safety or one not in LIVENESS]
        if violations:
            broken += 1
            print(f"seed {verdict.seed}: {len(violations)} violations; " + "; ".join(violations[:3]))
            sys.stdout.flush()
            if wish.first:
                break
    took_s = time.monotonic() - began_s
    print(f"{ran} schedules, {broken} broken, {answered} SENDs answered, {took_s / ran * 1000:.0f} ms each")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
