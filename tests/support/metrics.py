"""Reads a process's metrics as Prometheus does."""

import re
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def fetch(url: str) -> tuple[int, str]:
    """Return status and body of a response, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as failure:
        return failure.code, failure.read().decode()


def samples(text: str) -> list[Sample]:
    """Return every sample of a scrape."""
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def value(text: str, name: str, **labels: str) -> float:
    """Return the sum of the samples that have this name and at least these labels; 0 if none do."""
    return sum(
        sample.value
        for sample in samples(text)
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that a PromQL expression reads; names of recorded ones contain colons."""
    without_strings = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:gdsr|process)[_:][a-z0-9_:]+", without_strings))
