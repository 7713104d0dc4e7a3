"""What anybody could learn of the synthetic shop: a filter that knows how it works, beside the true probabilities.

    python -m experiments.shop_limit --requests 100000 --json FILE

The true probabilities are a ceiling that no learner reaches: what an item is worth has to be found out from its clicks, and
is drawn anew before it is known. The filter is given what a learner is not: which features matter, that their effects add
up, the variances with which the shop draws them, and how fast they change. It keeps a mean and a variance for each (assumed
density filtering; Graepel et al., "Web-Scale Bayesian Click-Through Rate Prediction", 2010, with a logistic link) and sees
clicks as late, and negatives as sampled, as it is told.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from rillet.benchmarks.result import BenchResult, Figure
from rillet.recordings.synthetic import Shop, ShopConfig
from rillet.schemas.arrays import Float64s, Int64s
from rillet.trainer.quality import auc

_HOUR_MS = 3_600_000.0
_QUALITY_VARIANCE = 0.7**2
#: nobody is told where the bias and the weight of the price are
_UNKNOWN_VARIANCE = 1.0
_JUDGE_FROM = 0.2
DELAY_MS = 660_000


@dataclass(frozen=True, slots=True)
class Clicks:
    """What was shown and clicked: R requests of C candidates each."""

    #: int64[R], epoch ms
    times_ms: Int64s
    #: int64[R]
    segments: Int64s
    #: int64[R, C]
    items: Int64s
    #: int64[R, C]
    categories: Int64s
    #: float64[R, C]
    log_prices: Float64s
    #: float64[R, C], 1.0 where it was clicked
    clicked: Float64s
    #: float64[R, C], true probabilities
    truth: Float64s


def play(config: ShopConfig, requests: int, seed: int) -> Clicks:
    """The events of a shop as columns."""
    times, segments, items, categories, prices, clicked, truth = [], [], [], [], [], [], []
    for event, actions, probabilities in Shop(config, seed).requests(requests):
        lengths, log_prices = event.item_lengths, event.dense
        if lengths is None or log_prices is None or probabilities is None:
            raise ValueError("a request of the shop lacks tags, prices or true probabilities")
        # Fids lie candidate by candidate: its item, its category, then its tags.
        fids = lengths.reshape(len(event.impression_ids), -1).sum(axis=1, dtype=np.int64)
        first = np.cumsum(fids) - fids
        ids_clicked = {action.impression_id for action in actions if action.action == "click"}
        times.append(event.event_time_ms)
        segments.append(event.context_fids[1])
        items.append(event.impression_ids - 1)
        categories.append(event.item_fids[first + 1])
        prices.append(log_prices)
        clicked.append(np.isin(event.impression_ids, list(ids_clicked)))
        truth.append(probabilities[:, 0])
    shape = (requests, config.candidates)
    return Clicks(
        np.array(times),
        np.unique(np.array(segments), return_inverse=True)[1],
        np.array(items),
        np.unique(np.array(categories), return_inverse=True)[1].reshape(shape),
        np.array(prices, np.float64).reshape(shape),
        np.array(clicked, np.float64),
        np.array(truth, np.float64),
    )


def logits(config: ShopConfig, clicks: Clicks, delay_ms: int, negative_rate: float, seed: int = 0) -> Float64s:
    """The filter's logit of every impression as of its request, float64[R, C].

    :param delay_ms: from a request to its clicks being known.
    :param negative_rate: share of the impressions without click that the filter sees.
    """
    unclicked = np.random.default_rng(seed).random(clicks.clicked.shape) < negative_rate
    seen = (clicks.clicked > 0) | unclicked
    return np.asarray(
        _filter(
            clicks.times_ms,
            clicks.segments,
            clicks.items,
            clicks.categories,
            clicks.log_prices,
            clicks.clicked,
            seen,
            delay_ms,
            float(np.log(negative_rate)),
            config.renewed_per_hour,
            (config.drift_per_hour / config.taste) ** 2,
            config.taste**2,
        )
    )


@numba.njit
def _filter(
    times_ms: Any,
    segments: Any,
    items: Any,
    categories: Any,
    prices: Any,
    clicked: Any,
    seen: Any,
    delay_ms: int,
    log_rate: float,
    renewed: float,
    drift: float,
    taste_variance: float,
) -> Any:
    qualities, quality_variances = np.zeros(items.max() + 1), np.full(items.max() + 1, _QUALITY_VARIANCE)
    quality_times = np.full(items.max() + 1, times_ms[0])
    shape = (segments.max() + 1, categories.max() + 1)
    tastes, taste_variances = np.zeros(shape), np.full(shape, taste_variance)
    taste_times = np.full(shape, times_ms[0])
    bias, bias_variance, price, price_variance = 0.0, _UNKNOWN_VARIANCE * 9, 0.0, _UNKNOWN_VARIANCE
    out = np.empty(items.shape)
    known = 0
    for at in range(len(times_ms)):
        while known < at and times_ms[known] + delay_ms <= times_ms[at]:
            now, segment = times_ms[known], segments[known]
            for of in range(items.shape[1]):
                if not seen[known, of]:
                    continue
                item, category, log_price = items[known, of], categories[known, of], prices[known, of]
                # What is known fades towards what the shop draws from.
                keep = np.exp(-renewed * (now - quality_times[item]) / _HOUR_MS)
                qualities[item] *= keep
                quality_variances[item] += (1 - keep * keep) * (_QUALITY_VARIANCE - quality_variances[item])
                quality_times[item] = now
                keep = np.exp(-drift / 2 * (now - taste_times[segment, category]) / _HOUR_MS)
                tastes[segment, category] *= keep
                taste_variances[segment, category] += (1 - keep * keep) * (
                    taste_variance - taste_variances[segment, category]
                )
                taste_times[segment, category] = now
                z = bias + qualities[item] + tastes[segment, category] + price * log_price
                # Of the impressions without click a share is seen: odds are higher by its inverse.
                p = 1 / (1 + np.exp(log_rate - z))
                variance = (
                    quality_variances[item]
                    + taste_variances[segment, category]
                    + bias_variance
                    + price_variance * log_price**2
                )
                information = p * (1 - p) / (1 + p * (1 - p) * variance)
                step = (clicked[known, of] - p) / (1 + p * (1 - p) * variance)
                qualities[item] += quality_variances[item] * step
                quality_variances[item] -= quality_variances[item] ** 2 * information
                tastes[segment, category] += taste_variances[segment, category] * step
                taste_variances[segment, category] -= taste_variances[segment, category] ** 2 * information
                bias += bias_variance * step
                bias_variance -= bias_variance**2 * information
                price += price_variance * log_price * step
                price_variance -= (price_variance * log_price) ** 2 * information
            known += 1
        for of in range(items.shape[1]):
            category = categories[at, of]
            out[at, of] = bias + qualities[items[at, of]] + tastes[segments[at], category] + price * prices[at, of]
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the AUC of click, judged after the first fifth, of the truth and of the filter at several delays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="of the shop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    config = ShopConfig()
    clicks = play(config, options.requests, options.seed)
    judged = slice(int(options.requests * _JUDGE_FROM), None)

    def figure(name: str, scores: Float64s) -> Figure:
        value = auc(scores[judged].ravel(), clicks.clicked[judged].ravel() > 0).value
        return Figure(name, "auc", value, "of click")

    figures = [figure("true probabilities", clicks.truth)]
    for delay_ms in (0, DELAY_MS):
        for rate in (1.0, 0.3):
            name = f"filter, clicks known after {delay_ms / 60_000:g} min, {rate:.0%} of the negatives"
            figures.append(figure(name, logits(config, clicks, delay_ms, rate)))
    result = BenchResult("shop_limit", figures, {})
    for line in result.lines():
        print(line)
    if options.json:
        result.write(options.json)


if __name__ == "__main__":
    main()
