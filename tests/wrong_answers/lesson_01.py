"""Wrong answers to the exercises of notebook 01."""

from __future__ import annotations

from typing import Any

import spliteasy as se

ONCE = 16 * 64 * 56 * 56 * 4 / 1e6


def no_input_rule(cuts: Any, share: float) -> str:
    return min((c for c in cuts if c.macs_before <= share * cuts[0].macs_after), key=lambda c: c.nbytes).name


def no_share(cuts: Any, share: float) -> str:
    return min(cuts[1:], key=lambda c: c.nbytes).name


def the_last_allowed(cuts: Any, share: float) -> str:
    return [c for c in cuts if c.macs_before <= share * cuts[0].macs_after][-1].name


def parameters_not_work(cuts: Any, share: float) -> str:
    return min((c for c in cuts[1:] if c.params_before <= share * cuts[0].params_after), key=lambda c: c.nbytes).name


def a_cut_not_a_name(cuts: Any, share: float) -> Any:
    return min((c for c in cuts[1:] if c.macs_before <= share * cuts[0].macs_after), key=lambda c: c.nbytes)


WRONG: dict[str, list[Any]] = {
    "01.1": [ONCE, 4 * ONCE, 2 * ONCE / 16, 2 * ONCE / 4, 2e6 * ONCE, 0.0],
    "01.2": [0.2, 0.5, 4.0, 80, 512 * 28 * 28 * 4],
    "01.3": [
        no_input_rule,
        no_share,
        the_last_allowed,
        parameters_not_work,
        a_cut_not_a_name,
        "maxpool",
        lambda cuts: cuts,
    ],
    "01.4": [6.887, 7, 13, 14, 55, 32, se.LINKS["4g"].seconds(25_690_112, 25_690_112)],
}
