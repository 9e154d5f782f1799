"""Numbers from lists of numbers, without packages."""
import random
import statistics


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def spread(values):
    if not values:
        return None
    return {"n": len(values), "median": statistics.median(values), "p90": quantile(values, 0.9),
            "max": max(values), "min": min(values)}


def median_interval(values, rounds=4000, seed=1):
    """The median with its 95 % bootstrap interval (percentiles of resampled medians)."""
    if not values:
        return None
    random_source = random.Random(seed)
    medians = sorted(statistics.median(random_source.choices(values, k=len(values)))
                     for _ in range(rounds))
    return {"n": len(values), "median": statistics.median(values),
            "low": medians[int(0.025 * rounds)], "high": medians[int(0.975 * rounds) - 1]}
